"""Every flagfile in configs/ parses, says what it is, and builds its model at its own size."""

import dataclasses
from pathlib import Path

import pytest
from tiers import some

from pae_zoo import models
from pae_zoo.core import hparams as hp
from pae_zoo.experiment import launch

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "configs").rglob("*.cfg"))
SHAPES = {"mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1), "omniglot": (28, 28, 1), "digits": (8, 8, 1),
          "cifar10": (32, 32, 3), "svhn_cropped": (32, 32, 3), "celeb_a": (64, 64, 3),
          "circle": (2,)}
ids = [f"{path.parent.name}/{path.stem}" for path in CONFIGS]


def hparams(path):
    argv = launch.expand_flagfiles([f"--flagfile={path}"])
    module = models.find(launch.value_of(argv, "model", ""))
    return module, launch.parse(module.HParams, argv)[0]


def test_there_is_a_config_of_every_model():
    assert {path.parent.name for path in CONFIGS} == set(models.MODULES)


@pytest.mark.parametrize("path", CONFIGS, ids=ids)
def test_config_parses_and_says_what_it_is(path):
    module, params = hparams(path)
    assert params.model == path.parent.name
    assert path.stem.startswith(params.dataset)
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any("Command:  python -m pae_zoo.main" in line for line in head)
    assert len(head) >= 2


def distinct(*names):
    """Configs without those whose networks, and flags `names`, are another one's; how flags go together, parsing tests.
    """
    found = {}
    shared = [field.name for field in dataclasses.fields(hp.SharedHParams) if field.metadata["group"] == hp.NETWORK]
    for path in CONFIGS:
        params = hparams(path)[1]
        values = (getattr(params, name) for name in (*names, *shared))
        found.setdefault((SHAPES[params.dataset], *values), path)
    return list(found.values())


# The published networks are large; the battery of networks has small ones of each kind.
SMALL = [path for path in distinct() if path.stem.endswith(("cpu", "digits"))]
builds = pytest.mark.parametrize(
    "path", some(distinct("model"), SMALL), ids=lambda path: f"{path.parent.name}/{path.stem}")


@builds
@pytest.mark.usefixtures("zero_weights")
def test_config_builds_its_model(path):
    module, params = hparams(path)
    if hasattr(params, "num_members"):
        params = dataclasses.replace(params, num_members=2)
    model = module.MODEL.from_hparams(params, SHAPES[params.dataset], 1000)
    assert model.latent_dim == params.latent_dim
