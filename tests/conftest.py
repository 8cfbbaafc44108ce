"""Shared by all tests: quiet TensorFlow, and the data sets that PAE_ZOO_DATA points to."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def data_dir():
    """The folder of real data sets; tests that need it are marked `data`."""
    path = os.environ.get("PAE_ZOO_DATA")
    if not path:
        pytest.skip("set PAE_ZOO_DATA to a folder with fashion_mnist/, mnist/, cifar10/, omniglot/")
    return path
