"""What is installed: the command pae-zoo, the configs, one number of the version."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import pae_zoo
from pae_zoo import cli

ROOT = Path(__file__).resolve().parent.parent


def test_the_version_is_one_number():
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)[1]
    assert cited == pae_zoo.__version__
    assert f"## [{cited}]" in (ROOT / "CHANGELOG.md").read_text()


def test_the_command_lists_what_it_does(capsys):
    for argv in ([], ["--help"]):
        assert cli.main(argv) == 0
        text = capsys.readouterr().out
        for name in ("train", "evaluate", "apply", "export", "sweep", "flow", "preset", "leaderboard", "report"):
            assert re.search(rf"^  {name} +\w", text, flags=re.MULTILINE)


def test_a_command_gets_the_words_after_it(capsys):
    for name in cli.COMMANDS:
        assert cli.main([name, "--help"]) == 0
        assert "--workdir" in capsys.readouterr().out or name in ("train", "sweep")
    assert cli.main(["export"]) == 2
    assert "--workdir is needed" in capsys.readouterr().err


def test_the_command_tells_its_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"pae_zoo {pae_zoo.__version__}\n"


def test_an_unknown_command_is_one_line_and_status_2(capsys):
    for word, near in {"trian": "did you mean train?", "xyz": "'xyz'."}.items():
        assert cli.main([word, "--model=vae"]) == 2
        captured = capsys.readouterr()
        assert near in captured.err and len(captured.err.splitlines()) == 1 and not captured.out


def test_the_page_for_contributors_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`((?:pae_zoo|tests|docs|configs|tools|\.ci)/[^`\s]*)`", text)
    named += re.findall(r"\]\((?!https?:)([^)]+)\)", text)
    missing = [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert named and not missing, missing


@pytest.fixture
def sources(tmp_path):
    """A copy of what is built from, so that nothing is written into the checkout."""
    found = tmp_path / "sources"
    found.mkdir()
    for path in ROOT.iterdir():
        if path.is_dir() and path.name in ("pae_zoo", "configs", "docs", "tests", "tools"):
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(path, found / path.name, symlinks=True, ignore=ignore)
        elif path.is_file():
            shutil.copy(path, found)
    return found


@pytest.mark.full
def test_an_installed_package_works_away_from_its_sources(sources, tmp_path):
    build = ["--no-build-isolation"] if importlib.util.find_spec("setuptools") else []
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *build, "--target", str(tmp_path / "lib")]
    subprocess.run([*pip, str(sources)], check=True)
    brought = {path.relative_to(sources / "pae_zoo") for path in (sources / "pae_zoo").rglob("*") if path.is_file()}
    missing = [path for path in brought if not (tmp_path / "lib" / "pae_zoo" / path).is_file()]
    assert not missing, f"setup.cfg leaves out {missing}"
    shutil.rmtree(sources / "configs")
    (tmp_path / "here").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "lib"), "TF_CPP_MIN_LOG_LEVEL": "3"}

    def run(*words):
        done = subprocess.run(words, cwd=tmp_path / "here", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    flags = ["--epochs=1", "--nojit_compile", "--tasks=reconstruction", "--workdir=run"]
    run(sys.executable, tmp_path / "lib" / "bin" / "pae-zoo", "train", "--flagfile=configs/vae/digits.cfg", *flags)
    assert (tmp_path / "here" / "run" / "metrics.json").is_file()
    code = """
import pae_zoo
from pae_zoo import cli
from pae_zoo.experiment import flagfiles
print(pae_zoo.__file__, flagfiles.expand(["--flagfile=configs/published/lae/mnist.cfg"]))
assert not any(cli.main([name, "--help"]) for name in cli.COMMANDS)
"""
    text = run(sys.executable, "-c", code)
    assert text.startswith(str(tmp_path / "lib")) and "--curvature_method=exact" in text


@pytest.mark.full
def test_the_archive_of_sources_holds_pages_and_configs(sources, tmp_path):
    code = f"import setuptools.build_meta as build; print(build.build_sdist({str(tmp_path)!r}))"
    pytest.importorskip("setuptools")
    done = subprocess.run([sys.executable, "-c", code], cwd=sources, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"docs/architecture.md", "configs/vae/digits.cfg", "pae_zoo/configs/vae/digits.cfg", "tests/tiers.py"}
    assert wanted <= names, sorted(wanted - names)


def test_every_public_name_is_written_out_for_editors():
    assert {name for name in pae_zoo.__all__ if name.isidentifier()} <= set(vars(pae_zoo))
    classes = {module.MODEL.__name__: module.MODEL for module in pae_zoo.models.MODULES.values()}
    assert {name: getattr(pae_zoo, name) for name in classes} == classes and set(classes) <= set(pae_zoo.__all__)
    text = (ROOT / "pae_zoo" / "__init__.py").read_text()
    for name in pae_zoo.__all__:
        assert re.search(rf"^from pae_zoo[\w.]* import .*\b{name}\b", text, flags=re.MULTILINE), name
