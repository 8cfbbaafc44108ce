"""Keeps the tests of data sets off the network."""

import pytest


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """No test may reach out; tensorflow-datasets must not be tried without a copy."""
    from pae_zoo.data import tfds_source

    monkeypatch.setattr(tfds_source, "reachable", lambda hosts, seconds=0.0: False)
