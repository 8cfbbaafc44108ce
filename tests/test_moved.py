"""Modules under their names of before."""

import importlib

from pae_zoo import moved


def test_names_of_before_give_the_modules_of_now():
    for before, now in moved.moved().items():
        module = importlib.import_module(now)
        spec = module.__spec__
        assert importlib.import_module(before) is module
        assert module.__spec__ is spec and module.__name__ == now


def test_other_names_stay_unknown():
    assert importlib.util.find_spec("pae_zoo.nothing_of_the_kind") is None
