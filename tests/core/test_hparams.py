"""Flags and config.json: home folders, the limits of numbers, types."""

import dataclasses
import typing

import pytest

from pae_zoo import apply, evaluate, export, models
from pae_zoo.core import hparams as hp
from pae_zoo.core import records
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch, record

VAE = record.widest(models.find("vae"))
# Every flag once: those that all models share are vae's.
FIELDS = [(cls, field) for cls in (VAE, evaluate.Flags, apply.Flags, export.Flags) for field in hp.flag_fields(cls)]
RECORDS = [module.HParams for module in models.MODULES.values()]
FIELDS += [(cls, field) for cls in RECORDS for field in records.own_fields(cls)]


def refused(cls, name, value, words):
    with pytest.raises(UserError, match=words):
        hp.check(dataclasses.replace(cls(), **{name: value}))


def test_every_flag_that_names_a_file_has_home_folders(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    paths = {field.name: cls for cls, field in FIELDS if field.metadata["path"]}
    assert set(paths) == {
        "workdir", "workdirs", "init_workdir", "data_dir", "dataset", "ood_datasets", "mask", "fid_weights",
        "stability_dir", "input", "out", "export_dir", "noise_map", "ood_workdirs",
        "background_workdir",
    }  # fmt: skip
    for name, cls in paths.items():
        options, _ = launch.parse(cls, [f"--{name}=~/a/b"])
        assert getattr(options, name) in ("/home/me/a/b", ("/home/me/a/b",))
        with pytest.raises(UserError, match=f"--{name}=~no_such_user_7/x: there is no home"):
            launch.parse(cls, [f"--{name}=~no_such_user_7/x"])
    assert hp.expand("npz:~/x.npz", "dataset") == "npz:/home/me/x.npz"
    assert hp.expand("a~b", "dataset") == "a~b"
    # A run of another version, whose configuration has the ~ still.
    assert hp.from_config(VAE, {"data_dir": "~/a"}).data_dir == "/home/me/a"


def test_numbers_have_a_largest_value():
    for cls, field in FIELDS:
        name, rule = field.name, field.metadata
        if type(field.default) is int:
            assert rule["choices"] or rule["high"] < 2**63, name
            refused(cls, name, 2**63, f"--{name}=")
            if rule["high"]:
                refused(cls, name, rule["high"] + 1, f"--{name}=.* at most {rule['high']}")
        elif typing.get_type_hints(cls)[name] == tuple[int, ...]:
            refused(cls, name, (1, 10**4200), f"--{name}=")
        elif type(field.default) is float:
            for value in (1e308, -1e308, 1e-320, float("nan"), float("inf")):
                refused(cls, name, value, f"--{name}=")


def test_a_nul_byte_is_refused_in_every_text():
    for cls, field in FIELDS:
        if isinstance(field.default, str) or field.default == ():
            value = "a\0b" if isinstance(field.default, str) else ("a", "b\0")
            refused(cls, field.name, value, f"--{field.name}=")


def test_config_json_gives_the_values_that_were_written_and_no_other_types():
    for module in models.MODULES.values():
        cls = record.widest(module)
        parts = hp.to_config(cls())
        assert hp.from_config(cls, parts["hparams"], parts["evaluation"]) == cls()
    for cls, field in FIELDS:
        wrong = {bool: ("no", 1, None), int: (2.5, "2", True, None, 2**63), float: ("1", True, None, 2**1100),
                 str: (5, None, ["vae"]), tuple: ("a", 5, None, [None], [True], [{}])}[type(field.default)]  # fmt: skip
        for value in wrong:
            with pytest.raises(UserError, match=f"{field.name} is .*, not a?"):
                hp.from_config(cls, {field.name: value})
    # JSON has 1 for 1.0.
    assert type(hp.from_config(VAE, {"beta": 1}).beta) is float
