"""Shared by all tests: quiet TensorFlow, and the data sets that PAE_ZOO_DATA points to."""

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402

#: tests of many seconds whose property a shorter test holds too, by their full names
LONG = frozenset(Path(__file__).with_name("long.txt").read_text().splitlines())


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Tests of long.txt run only where -m asks for `full`."""
    for item in items:
        if item.nodeid in LONG:
            item.add_marker(pytest.mark.full)


@pytest.fixture(autouse=True, scope="session")
def graphs_run_as_they_are_built(request):
    """Optimising a graph takes longer than running it once; with -m full graphs are optimised, as for users."""
    import tensorflow as tf  # here, for the process that hands tests out needs no TensorFlow

    if "not full" in request.config.option.markexpr:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(autouse=True)
def curvature_uncompiled(monkeypatch):
    """XLA takes seconds to compile what these tests compute once; those of XLA ask for it."""
    monkeypatch.setattr("pae_zoo.curvature.matrices.gauss_newton._xla_pays", lambda graph: False)


@pytest.fixture
def zero_weights(monkeypatch):
    """Kernels start at zero: tens of millions of random numbers take seconds where no test looks at a value."""
    import keras

    zeros = keras.initializers.Zeros()
    monkeypatch.setattr(keras.initializers.VarianceScaling, "__call__", lambda self, *args, **how: zeros(*args, **how))


@pytest.fixture(scope="session")
def data_dir():
    """The folder of real data sets; tests that need it are marked `data`."""
    path = os.environ.get("PAE_ZOO_DATA")
    if not path:
        pytest.skip("set PAE_ZOO_DATA to a folder with fashion_mnist/, mnist/, cifar10/, omniglot/")
    return path
