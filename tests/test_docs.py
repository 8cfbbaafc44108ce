"""The documentation: links lead somewhere, flags exist, pages are short and in the site, the worked examples run.

What the code blocks of the pages do is in test_docs_code.py.
"""

import dataclasses
import itertools
import re
import sys
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from battery import EVENT_SHAPE, TOTAL_STEPS, images

from pae_zoo import apply, evaluate, export, flow, leaderboard, models, preset, report, sweep
from pae_zoo.core import records
from pae_zoo.experiment import launch, record

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import results as settings  # noqa: E402
from reproductions import _page as reproductions  # noqa: E402

DOCS = ROOT / "docs"
README = ROOT / "README.md"
GUIDE = DOCS / "guides" / "adding_a_model.md"
PARTS = DOCS / "guides" / "adding_parts.md"
PAGES = sorted(DOCS.rglob("*.md"))
TUTORIALS = sorted((DOCS / "tutorials").glob("*.py"))
MODEL_PAGES = {name: DOCS / "models" / f"{name}.md" for name in models.MODULES}
CONFIGS = sorted((ROOT / "configs").rglob("*.cfg"))
TEXTS = [README, *PAGES, *TUTORIALS]
SOURCES = [path for folder in ("pae_zoo", "tests") for path in (ROOT / folder).rglob("*")]
# Files that guides tell readers to write.
WRITTEN_BY_READERS = {"pae_zoo/models/cv_vae.py", "tests/models/test_cv_vae.py"}
WORDS = 1500
WIDTH = 120

HELP = {"help", "helpfull", "flagfile"}
# Flags of other programs that prose speaks of.
FOREIGN = {"enable_batching", "model_config_file", "logdir"}
# A flag of the worked example in adding_a_model.md, whose model is not in the zoo.
EXAMPLE = {"latent_std"}
# Programs whose own flags a line of shell may have.
PROGRAMS = {
    "apt", "apt-get", "bash", "cd", "curl", "docker", "git", "jupyter", "make", "nvidia-smi", "pip", "pip3",
    "pytest", "saved_model_cli", "source", "sudo", "tensorboard", "uv", "wget",
}  # fmt: skip
FLAG = re.compile(r"(?<![\w-])--([A-Za-z][\w-]*)")


def name_of(path):
    return str(path.relative_to(ROOT))


def read(path):
    """The text of a file of the project; of a tutorial what is no code."""
    text = path.read_text(encoding="utf-8")
    if path in TUTORIALS:
        found = re.findall(r"^# %% \[markdown\]\n((?:#.*\n)*)", text, flags=re.MULTILINE)
        return "\n".join(re.sub("^# ?", "", one, flags=re.MULTILINE) for one in found)
    return text


def names(cls):
    return {field.name for field in dataclasses.fields(cls)}


def flags_of_main(line=""):
    """The flags of main with the model that `line` names, or of every model when it names none."""
    chosen = re.search(r"--model=(\w+)", line)
    modules = models.every().values()
    if chosen and chosen[1] in models.every():
        modules = [models.find(chosen[1])]
    return set(itertools.chain.from_iterable(names(record.widest(module)) for module in modules))


LAUNCHERS = {"evaluate": evaluate.Flags, "apply": apply.Flags, "export": export.Flags, "sweep": sweep.Flags,
             "flow": flow.Flags, "preset": preset.Flags, "leaderboard": leaderboard.Flags, "report": report.Flags}
ALL = flags_of_main().union(*(names(cls) for cls in LAUNCHERS.values()))


def flags_of_tool(file):
    """The flags that a script of tools/ defines, by its source: argparse flags are written out."""
    sources = [file, *(file.parent / file.stem).glob("*.py"), *(file.parent / f"{file.stem}s").glob("*.py")]
    return set(FLAG.findall("\n".join(source.read_text() for source in sources if source.is_file())))


def without_upstream(path):
    """The text of a page; in coming_from/ without the left columns of tables, which are upstream's."""
    text = read(path)
    if path.parent.name != "coming_from":
        return text
    lines = text.splitlines()
    return "\n".join(line.split("|", 2)[-1] if line.startswith("|") else line for line in lines)


def joined_lines(text):
    """The lines of a text, those continued by a backslash joined."""
    return re.sub(r"\\\n\s*", " ", text).splitlines()


def unknown_flags(line):
    """The flags in a line that the command it shows, or any of ours in prose, does not have."""
    found = []
    command = re.compile(r"-m pae_zoo\.(\w+)([^`|]*)|(tools/\w+\.py)([^`|]*)")
    for launcher, rest, tool, rest_of_tool in command.findall(line):
        if launcher:
            known = flags_of_main(rest) if launcher == "main" else names(LAUNCHERS[launcher])
        else:
            known = ALL | flags_of_tool(ROOT / tool)
        found += [flag for flag in FLAG.findall(rest + rest_of_tool) if not known & spellings(flag)]
    line = command.sub("", line)
    commands = [line.strip().lstrip("$ "), *re.findall(r"`([^`]+)", line)]
    foreign = any(words.split(" ", 1)[0] in PROGRAMS for words in commands)
    if foreign or re.search(r"-m (pip|pytest|venv)\b", line):
        return found
    return found + [flag for flag in FLAG.findall(line) if not ALL & spellings(flag)]


def spellings(flag):
    """The names that a flag may stand for: --nodownload is download."""
    return {flag, flag.removeprefix("no")}


def prose(text):
    """A text without its code: blocks by fences and by indentation, and code within a line."""
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def slugs(path):
    """The anchors of a page: those of its headings, as GitHub and mkdocs make them."""
    heads = re.findall(r"^#+ (.+)$", read(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def fault_of_link(path, target):
    """What is wrong with a link of a page, or None."""
    if re.match(r"[a-z]+:", target):
        return None
    file, _, anchor = target.partition("#")
    found = (path.parent / file).resolve() if file else path
    if not found.exists():
        return "no such file"
    return "no such heading" if anchor and found.suffix == ".md" and anchor not in slugs(found) else None


def test_links_lead_somewhere():
    wrong = [f"{name_of(path)} links to {target}: {fault}" for path in TEXTS
             for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(path)))
             if (fault := fault_of_link(path, target))]
    assert not wrong, "\n".join(wrong)


def test_every_page_is_in_the_navigation_of_the_site():
    named = set(re.findall(r"^ +- (?:.*: )?(\S+\.md)$", read(ROOT / "mkdocs.yml"), flags=re.MULTILINE))
    assert named == {str(path.relative_to(DOCS)) for path in [*PAGES, *(path.with_suffix(".md") for path in TUTORIALS)]}


def test_pages_are_short():
    written = {path: re.sub(r"<!-- rooms.*<!-- end of rooms -->", "", read(path), flags=re.DOTALL)
               for path in [*PAGES, *TUTORIALS]}
    words = {name_of(path): len(text.split()) for path, text in written.items()
             if path not in (settings.PAGE, reproductions.PAGE)}  # lists that are written by tools
    assert not {page: count for page, count in words.items() if count > WORDS}
    assert len(read(README).splitlines()) <= 150


def test_lines_of_prose_are_short():
    long = [f"{name_of(path)}: {line}" for path in TEXTS
            for line in re.sub(r"^ *```.*?```$", "", read(path), flags=re.DOTALL | re.MULTILINE).splitlines()
            if len(line) >= WIDTH and not line.startswith(("|", "    ", "!["))]
    assert not long, "\n".join(long)


def test_flags_exist():
    unknown = []
    for path in [*TEXTS, *CONFIGS]:
        allowed = HELP | FOREIGN | (EXAMPLE if path == GUIDE else set())
        unknown += [f"{name_of(path)}: --{flag} in: {line.strip()}" for line in joined_lines(without_upstream(path))
                    for flag in unknown_flags(line) if flag not in allowed]
    assert not unknown, "\n".join(unknown)


def test_the_list_of_settings_is_that_of_their_heads():
    assert read(settings.PAGE) == settings.page(), "run: python tools/results.py --write"


def test_files_of_the_package_that_pages_name_exist():
    missing = []
    for path in [DOCS / "architecture.md", *sorted((DOCS / "guides").glob("*.md")), DOCS / "notes" / "departures.md"]:
        named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+\.py)`", read(path)))
        if path.parent == DOCS:
            named |= {folder.rstrip("/") for folder in re.findall(r"`((?:[a-z_]+/)+)`", read(path))}
        missing += [f"{name_of(path)}: {name}" for name in sorted(named - WRITTEN_BY_READERS)
                    if not any(str(file).endswith(f"/{name}") for file in SOURCES)]
    assert not missing, "\n".join(missing)


def test_a_models_page_links_the_configs_that_were_run():
    missing = [name_of(path) for path in sorted((ROOT / "configs").glob("*/*.cfg"))
               if f"](../../{name_of(path)})" not in read(MODEL_PAGES[path.parent.name])]
    assert not missing


def test_every_model_has_a_page_of_its_own():
    assert not [name for name, path in MODEL_PAGES.items() if not path.exists()]


def test_a_models_page_lists_its_own_flags():
    for name, path in MODEL_PAGES.items():
        rows = dict(re.findall(r"^\| `--(\w+)` \| ([^|]*) \|", read(path), flags=re.MULTILINE))
        fields = records.own_fields(models.MODULES[name].HParams)
        assert set(rows) == {field.name for field in fields}, f"the flags on {name_of(path)}"
        for field in fields:
            shown = rows[field.name].strip().strip("`")
            kind = type(field.default)
            if kind is tuple:
                found = tuple(type(field.default[0])(word) for word in shown.split(","))
            else:
                found = shown.lower() == "true" if kind is bool else kind(shown)
            assert found == field.default, f"{name}, --{field.name}: the page says {shown}, the code {field.default}"


def test_the_page_of_a_model_tells_of_the_one_that_imitates_published_code():
    for name, module in models.PUBLISHED.items():
        itself = name.removesuffix("_published")
        more = {field.name for field in records.own_fields(module.HParams)}
        more -= {field.name for field in records.own_fields(models.MODULES[itself].HParams)}
        page = read(MODEL_PAGES[itself])
        lost = [word for word in (f"`--model={name}`", *(f"`--{flag}" for flag in sorted(more))) if word not in page]
        assert not lost, f"{name_of(MODEL_PAGES[itself])} does not tell of {lost}"


def blocks(path, language):
    """The fenced blocks of a page that are marked with a language, or with none."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", read(path), flags=re.DOTALL | re.MULTILINE)
    return [text for marked, text in found if marked == language]


# ---- the worked examples of adding_a_model.md and adding_parts.md --------------------------------------


@pytest.fixture
def example(monkeypatch):
    """The example's module, run from the page."""
    source = next(block for block in blocks(GUIDE, "python") if block.startswith('"""cv_vae'))
    module = types.ModuleType("pae_zoo.models.cv_vae")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(models.MODULES, "cv_vae", module)
    exec(compile(source, "cv_vae.py", "exec"), module.__dict__)
    return module


def test_the_worked_example_runs(example, tmp_path):
    assert "cv_vae" in models.describe()
    assert {field.name for field in records.own_fields(example.HParams)} == {"beta", "latent_std"}
    config = next(block for block in blocks(GUIDE, "") if "--latent_std" in block)
    (tmp_path / "digits.cfg").write_text(config)
    flags = [f"--flagfile={tmp_path / 'digits.cfg'}", "--hidden_units=8", "--latent_std=0.5"]
    argv = launch.expand_flagfiles(flags)
    hparams, _ = launch.parse_model(example, argv)
    model = example.MODEL.from_hparams(hparams, EVENT_SHAPE, TOTAL_STEPS)
    model.compile("adam", jit_compile=False)
    x = images(32)
    model.fit(x, epochs=1, batch_size=16, verbose=0)
    np.testing.assert_allclose(model.encode(x).stddev(), 0.5)
    assert np.isfinite(model.log_likelihood(x, 4, seed=(0, 1))).all()
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "model.keras")(x), model(x))


def test_the_example_task_runs():
    source = next(block for block in blocks(PARTS, "python") if "def run(context)" in block)
    scope: dict = {}
    exec(compile(source, "codes.py", "exec"), scope)

    class Context:
        """As much of an evaluation's context as the example uses: codes are (3, 4)."""

        dataset = types.SimpleNamespace(test=types.SimpleNamespace(x=np.zeros((1, 2), np.float32)))
        model = types.SimpleNamespace(
            encode=lambda x, seed: types.SimpleNamespace(mean=lambda: np.array([[3.0, 4.0]], np.float32)))

        def map_batches(self, fn, x, purpose):
            return fn(x, (0, 1)).numpy()

    assert dict(scope["run"](Context())) == {"codes/mean_square": 12.5}
