"""The examples of docstrings run and print what stands below them."""

import doctest
import importlib
from pathlib import Path

import pytest

import pae_zoo
from pae_zoo import evaluation

ROOT = Path(pae_zoo.__file__).resolve().parent
MODULES = [
    ".".join(("pae_zoo", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(ROOT.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")
]  # fmt: skip
# What a reader of the API meets first.
WITH_EXAMPLES = {
    "core.distributions.Normal", "core.seeds.stream", "curvature.matrices.gauss_newton.ggn",
    "curvature.posteriors.build.build", "data.loading.load", "data.preprocessing.build_chain",
    "evaluation.metrics.detection.auroc", "evaluation.metrics.frechet.distance", "experiment.record.make",
    "geometry.maps.expmap", "geometry.solver.solve_geodesics", "likelihoods.build", "models.vae.VAE",
    "registry.register",
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name, monkeypatch):
    monkeypatch.setattr(evaluation, "_REGISTERED", dict(evaluation._REGISTERED))
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried and not failed


def test_the_main_names_have_examples():
    found = {test.name.removeprefix("pae_zoo.") for name in MODULES
             for test in doctest.DocTestFinder().find(importlib.import_module(name)) if test.examples}  # fmt: skip
    assert WITH_EXAMPLES <= found
