"""Every flagfile in configs/ parses, says what it is, and builds its model at its own size."""

import dataclasses
import re
from pathlib import Path

import pytest

from pae_zoo import models, networks
from pae_zoo.experiment import flagfiles, launch

FOLDER = Path(__file__).resolve().parent.parent / "configs"
PUBLISHED = FOLDER / "published"
BASES = sorted((PUBLISHED / "base").rglob("*.cfg"))
CONFIGS = sorted(set(FOLDER.rglob("*.cfg")) - set(BASES))
UNRUN = [path for path in CONFIGS if PUBLISHED in path.parents]
RUN = sorted(set(CONFIGS) - set(UNRUN))
SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "omniglot": (28, 28, 1), "digits": (8, 8, 1),
          "cifar10": (32, 32, 3), "svhn_cropped": (32, 32, 3), "celeb_a": (64, 64, 3),
          "circle": (2,), "waves": (32, 1), "breast_cancer": (30,)}  # fmt: skip
WIDTH = 120


def name_of(path):
    return str(path.relative_to(FOLDER.parent))


def hold(check, paths):
    """Calls check(path) for each of paths and tells all that fail together."""
    failures = []
    for path in paths:
        try:
            check(path)
        except Exception as error:
            failures.append(f"{name_of(path)}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)


def hparams(path):
    argv = flagfiles.expand([f"--flagfile={path}"])
    module = models.find(launch.value_of(argv, "model", ""))
    return module, launch.parse_model(module, argv)[0]


def head_of(path):
    return [line for line in path.read_text().splitlines() if line.startswith("#")]


def test_there_is_a_config_with_figures_of_every_model():
    assert {path.parent.name for path in RUN} == set(models.MODULES)


def test_configs_parse_and_stand_where_their_model_and_data_are():
    def check(path):
        params = hparams(path)[1]
        assert params.model.removesuffix("_published") == path.parent.name
        assert path.stem.startswith(params.dataset)

    hold(check, CONFIGS)


def test_heads_say_what_it_is_how_to_run_it_and_what_came_out():
    def check(path):
        head = head_of(path)
        text = " ".join(line.lstrip("# ") for line in head)
        assert f"Command: python -m pae_zoo.main --flagfile={name_of(path)}" in re.sub(" +", " ", text)
        fields = {match[1] for line in head if (match := re.match(r"# (\w+): ", line))}
        if path in UNRUN:
            assert "not yet run" in text and "Expect" in fields and "Measured" not in fields
        else:
            assert "not yet run" not in text and "Measured" in fields and "Expect" not in fields

    hold(check, CONFIGS)


def test_files_that_heads_name_exist():
    def check(path):
        for name in re.findall(r"[\w/]+\.cfg", " ".join(head_of(path))):
            assert (FOLDER.parent / name if "/" in name else path.parent / name).is_file(), name

    hold(check, [*CONFIGS, *BASES])


def test_lines_are_not_longer_than_those_of_code():
    def check(path):
        long = [line for line in path.read_text().splitlines() if len(line) > WIDTH]
        assert not long, long

    hold(check, [*CONFIGS, *BASES])


def test_what_published_settings_share_is_written_once():
    used = set()

    def check(path):
        known = {}
        for line in flagfiles.lines(path.read_text()):
            name, _, value = line.partition("=")
            if name == "--flagfile":
                used.add((path.parent / value).resolve())
                known |= dict(one.split("=", 1) for one in flagfiles.expand([f"--flagfile={path.parent / value}"]))
            else:
                assert known.get(name) != value, f"{line} is in an included file already"

    hold(check, [*UNRUN, *BASES])
    assert used == set(BASES)


def distinct(paths, *names):
    """The first of paths for each shape of data and values of the flags `names`."""
    found = {}
    for path in paths:
        params = hparams(path)[1]
        found.setdefault((SHAPES[params.dataset], *(getattr(params, name, None) for name in names)), path)
    return list(found.values())


def build(path):
    module, params = hparams(path)
    if hasattr(params, "num_members"):
        params = dataclasses.replace(params, num_members=2)
    model = module.MODEL.from_hparams(params, SHAPES[params.dataset], 1000)
    assert model.latent_dim == params.latent_dim


@pytest.mark.usefixtures("zero_weights")
def test_each_kind_of_small_network_builds():
    """The published networks are large; the battery of networks has small ones of each kind."""
    small = [path for path in CONFIGS if path.stem.endswith(("cpu", "digits"))]
    hold(build, distinct(small, "encoder", "decoder"))


@pytest.mark.full
@pytest.mark.usefixtures("zero_weights")
def test_each_network_of_each_model_builds():
    """How flags go together, parsing tests."""
    shared = [*networks.option_names(), "latent_dim", "encoder", "decoder", "output", "likelihood", "scale"]
    hold(build, distinct(CONFIGS, "model", *shared))
