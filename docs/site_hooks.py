"""Hooks of mkdocs: files that pages link to and that lie outside of docs/ become a part of the site.

On GitHub `../../configs/vae/digits.cfg` is a file of the repository; a site has no such place. So what pages link to
is copied to `files/`, as text that a browser shows, and the links follow. Notebooks become pages, as they were run.
"""

import posixpath
import re
from pathlib import Path

import nbconvert
import nbformat
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
# Pages of the site that hold what these files say.
PAGES = {"README.md": "README.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
NOTEBOOK = ".ipynb"
# What a cell printed stands apart from its code.
TEMPLATE = """{%- extends 'markdown/index.md.j2' -%}
{%- block stream %}
```text
{{ output.text.rstrip() }}
```
{% endblock stream -%}
{%- block data_png %}
![What the cell above draws]({{ output.metadata.filenames['image/png'] }})
{% endblock data_png -%}"""


def outside(page, target):
    """The path in the repository of a link's target when it lies outside of docs/, else None."""
    if re.match(r"[a-z]+:", target):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    return None if path.startswith(("docs/", "..")) else path


def place(path):
    """Where a file of the repository stands in the site; a folder as the list of its files."""
    return f"files/{path}/list.txt" if (ROOT / path).is_dir() else f"files/{path}.txt"


def pages_of_notebooks(files, config):
    """Yields a page for each notebook, and its pictures."""
    exporter = nbconvert.MarkdownExporter(raw_template=TEMPLATE)
    for source in [file for file in files if file.src_uri.endswith(NOTEBOOK)]:
        place, name = source.src_uri.removesuffix(NOTEBOOK), Path(source.src_uri).stem
        text, found = exporter.from_notebook_node(
            nbformat.read(source.abs_src_path, as_version=4), {"output_files_dir": f"{name}_files", "unique_key": name})
        title, rest = text.lstrip().split("\n", 1)
        yield File.generated(config, f"{place}.md", content=f"{title}\n\n*This page is a notebook: "
                             f"[{name}.ipynb]({name}.ipynb), made of the script [{name}.py]({name}.py).*\n{rest}")
        for path, picture in found["outputs"].items():
            yield File.generated(config, posixpath.join(posixpath.dirname(source.src_uri), path), content=picture)


def on_files(files, config):
    """Adds the pages of notebooks, and the files that pages link to."""
    for file in list(pages_of_notebooks(files, config)):
        files.append(file)
    wanted = set()
    for page in files.documentation_pages():
        wanted |= {outside(page.src_uri, found[2]) for found in LINK.finditer(page.content_string)}
    for path in sorted(wanted - {None} - set(PAGES)):
        source = ROOT / path
        if source.is_dir():
            text = "".join(f"{child.relative_to(source)}\n" for child in sorted(source.rglob("*")) if child.is_file())
        elif source.is_file():
            text = source.read_text(encoding="utf-8")
        else:
            continue  # the link is then told as broken
        files.append(File.generated(config, place(path), content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    """Adds what a page shows of other files and turns links out of docs/ into links to copies.

    A figure keeps its error on its line.
    """
    if page.file.src_uri == "changelog.md":
        markdown = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if page.file.src_uri == "examples/README.md":
        for script in dict.fromkeys(re.findall(r"\]\((\w+\.py)\)", markdown)):
            code = (ROOT / "docs" / "examples" / script).read_text(encoding="utf-8")
            markdown += f"\n## {script}\n\n```py\n{code}```\n"
    markdown = "\n".join(
        line.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}") if line.startswith("|") else line
        for line in markdown.split("\n"))

    def inside(found):
        path = outside(page.file.src_uri, found[2])
        if path is None and found[2].endswith(NOTEBOOK) and page.file.generated_by is None:
            return f"{found[1]}{found[2].removesuffix(NOTEBOOK)}.md{found[3]}"
        if path is None:
            return found[0]
        target = PAGES.get(path, place(path))
        return f"{found[1]}{posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or '.')})"

    return LINK.sub(inside, markdown)
