"""Flags belong to who reads them: what a command has, shows, keeps and refuses; parts from outside the package."""

import dataclasses
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import pytest

from pae_zoo import evaluation, main, models, networks
from pae_zoo.core import hparams as hp
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch, record
from pae_zoo.experiment.session import default_tasks
from pae_zoo.experiment.workdir import Run

ROOT = Path(__file__).resolve().parents[2]
# The most flags that the help of a model shows; gp_circle has no network and no step.
MOST = {"gp_circle": 44, "vae": 77, "lae": 85}


def shown(capsys, *argv):
    assert launch.run(main.main, [*argv, "--helpfull"]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [line.split("=")[0].strip().removeprefix("--").removeprefix("[no]") for line in lines
            if line.startswith("  --")]


def test_the_help_of_a_model_shows_what_applies_to_it(capsys):
    of_tasks = {task: {f.name for f in hp.flag_fields(flags)} for task, flags in evaluation.flag_records().items()}
    for name, most in MOST.items():
        found = shown(capsys, f"--model={name}")
        model = models.find(name)
        own = {f.name for f in hp.flag_fields(model.HParams)}.union(
            *(of_tasks.get(task, set()) for task in default_tasks(model.MODEL)))
        assert len(found) == len(set(found)) <= most, (name, len(found))
        assert not set(found) & (set().union(*of_tasks.values()) - own)
    assert {"num_filters", "num_levels", "activation"} <= set(shown(capsys, "--model=vae", "--encoder=conv"))
    assert {"geodesic_pairs", "pair_seed"} <= set(shown(capsys, "--model=vae", "--tasks=geodesics"))
    assert "cluster_points" not in shown(capsys, "--model=vae", "--tasks=geodesics")
    rates = {"lr_warmup", "lr_drops", "adam_beta1", "log_norms", "keep_checkpoints"}
    assert rates <= set(shown(capsys, "--model=vae", "--lr_schedule=piecewise"))
    assert not rates & set(shown(capsys, "--model=vae"))


def test_the_help_tells_of_what_it_leaves_out(capsys):
    assert launch.run(main.main, ["--model=vae", "--helpfull"]) == 0
    text = capsys.readouterr().out
    assert "geodesics: 11 more with --tasks=geodesics --helpfull" in text
    assert "conv: 4 more with --encoder=conv --helpfull" in text


def test_an_option_of_networks_is_declared_once():
    """In the record of the kinds that read it; a kind's own record has no more than it reads."""
    shared = {f.name for module in models.MODULES.values() for f in dataclasses.fields(module.HParams)}
    assert set(networks.option_names(networks.NetworkConfig)) & shared == {
        "dropout_rate", "column_kinds"}  # mcdropout_ae's default; a record that networks and data share
    assert set(networks.option_names(networks.options_of("mlp"))) == {
        "hidden_units", "activation", "dropout_rate", "torch_init"}


def test_a_record_holds_the_options_of_the_kinds_that_are_chosen():
    both = record.make("vae", encoder="conv", decoder="mlp", num_filters=8)
    assert both.num_filters == 8 and both.hidden_units == (512, 256)
    assert not hasattr(record.make("vae"), "num_filters") and not hasattr(record.make("gp_circle"), "hidden_units")
    assert record.make("mcdropout_ae").dropout_rate == 0.2 and record.make("vae").dropout_rate == 0.0


def test_flags_that_are_not_read_are_told_or_refused(capsys, tmp_path):
    given = ["--model=ae", "--smoke", "--epochs=1", "--hidden_units=4", "--tasks=reconstruction"]
    assert launch.run(main.main, [*given, "--num_filters=9", f"--workdir={tmp_path / 'run'}"]) == 0
    told = capsys.readouterr().out
    assert "--num_filters has no effect: networks of kind conv, tcn read it" in told
    assert "num_filters" not in (tmp_path / "run" / "config.json").read_text()
    assert launch.run(main.main, [*given, "--num_filters=0", f"--workdir={tmp_path / 'other'}"]) == 2
    assert "--num_filters=0 is out of range" in capsys.readouterr().err
    assert launch.run(main.main, ["--model=gp_circle", "--grey", f"--workdir={tmp_path / 'other'}"]) == 2
    assert "unknown flag --grey" in capsys.readouterr().err
    assert launch.run(main.main, ["--model=vae", "--svi_clip=1", f"--workdir={tmp_path / 'other'}"]) == 2
    assert "unknown flag --svi_clip: it is one of savae." in capsys.readouterr().err


def test_flags_of_evaluation_stand_apart_and_refuse_nothing(tmp_path, capsys):
    run = Run(tmp_path)
    run.prepare()
    before = record.make("vae", geodesic_pairs=3, workdir=str(tmp_path))
    run.write_config(before)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["evaluation"]["geodesic_pairs"] == 3 and "geodesic_pairs" not in config["hparams"]
    assert run.read_hparams() == before
    assert hp.differences(before, record.make("vae", geodesic_pairs=5, tasks=("ood",), workdir=str(tmp_path))) == []
    config["evaluation"]["number_of_another_version"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert run.read_hparams() == before
    assert "does not know, left out: number_of_another_version" in capsys.readouterr().out
    config["hparams"]["number_of_another_version"] = 7
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="number_of_another_version"):
        run.read_hparams()


def test_a_flag_that_was_renamed_is_read(monkeypatch):
    monkeypatch.setitem(hp.RENAMED, "width", "hidden_units")
    monkeypatch.setitem(hp.RENAMED, "pairs", "geodesic_pairs")
    found = record.read({"model": "vae", "width": [7]}, {"pairs": 4})
    assert found.hidden_units == (7,) and found.geodesic_pairs == 4


def test_a_value_that_was_renamed_is_read():
    before = {"model": "lae", "curvature_method": "mix", "mix_pattern": "upstream"}
    assert record.read(before).mix_pattern == "dense"
    with pytest.raises(UserError, match="mix_pattern='nobody' is unknown; allowed: width, dense"):
        record.read({**before, "mix_pattern": "nobody"})


PLUGIN = '''
import dataclasses
import types
import keras
import pae_zoo
from pae_zoo.core import hparams as hp
from pae_zoo.models import vae
from pae_zoo.networks import Family, Options


@dataclasses.dataclass(frozen=True, kw_only=True)
class ThinOptions(Options):
    """thin."""
    thin_units: int = hp.option(3, "Width.", low=1, smoke=2, group=hp.NETWORK)


def chain(make, units):
    return [*make.flatten(), make.dense(make.config.thin_units), make.dense(units)]


THIN = Family("thin", "one thin layer", lambda config, make, units: chain(make, units),
              lambda config, make: [make.dense(config.num_values * make.channels_factor), *make.unflatten()],
              options=ThinOptions)


@keras.saving.register_keras_serializable("my_parts")
class Loud(pae_zoo.likelihoods.Gaussian):
    """A Gaussian by another name."""


@dataclasses.dataclass(frozen=True)
class HParams(vae.HParams):
    loudness: float = hp.option(1.0, "A flag of its own.", above=0.0)


@keras.saving.register_keras_serializable("my_parts")
class MyVAE(vae.VAE):
    """A VAE that keeps how loud it is."""

    def __init__(self, *args, loudness=1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.loudness = loudness

    def get_config(self):
        return {**super().get_config(), "loudness": self.loudness}


@dataclasses.dataclass(frozen=True)
class Flags:
    my_number: int = hp.option(4, "A flag of the task.", low=1, group=hp.EVALUATION)


def run(context):
    """my_task: tells a number."""
    yield "my_task/number", float(context.hparams.my_number)


pae_zoo.register("my_vae", model=types.SimpleNamespace(
    MODEL=MyVAE, HParams=HParams, __doc__="my_vae: a model from outside."))
pae_zoo.register("thin", network=THIN)
pae_zoo.register("loud", likelihood=Loud)
pae_zoo.register("my_task", task=types.SimpleNamespace(run=run, Flags=Flags))
'''


def test_parts_from_outside_are_trained_evaluated_and_applied_by_the_commands(tmp_path):
    (tmp_path / "my_parts.py").write_text(PLUGIN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def call(launcher, *flags):
        return subprocess.run([sys.executable, "-m", f"pae_zoo.{launcher}", *flags], cwd=tmp_path, env=environment,
                              capture_output=True, text=True)

    flags = ["--plugin=my_parts", "--model=my_vae", "--encoder=thin", "--decoder=thin", "--likelihood=loud",
             "--loudness=2", "--thin_units=2", "--tasks=my_task", "--my_number=6", "--smoke", "--epochs=1",
             "--workdir=run"]  # fmt: skip
    trained = call("main", *flags)
    assert trained.returncode == 0, trained.stdout + trained.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["my_task/number"] == 6
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["hparams"]["thin_units"] == 2 and config["evaluation"]["my_number"] == 6
    again = call("evaluate", "--plugin=my_parts", "--workdir=run", "--tasks=my_task,reconstruction", "--my_number=8")
    assert again.returncode == 0, again.stdout + again.stderr
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["my_task/number"] == 8
    # A run from elsewhere imports nothing by itself: the command must name the module.
    alone = call("evaluate", "--workdir=run")
    assert alone.returncode == 2 and "--plugin=my_parts: give that here too" in alone.stderr
    assert "pae_zoo.evaluate --plugin=my_parts --workdir=run" in trained.stdout
    missing = call("main", "--plugin=no_such_parts", "--model=vae")
    assert missing.returncode == 2 and "there is no module no_such_parts" in missing.stderr


def test_what_is_registered_is_checked():
    import pae_zoo

    @dataclasses.dataclass(frozen=True)
    class Bare:
        number: int = 3

    @dataclasses.dataclass(frozen=True)
    class Taken:
        beta: float = hp.option(7.0, "Another beta.", group=hp.EVALUATION)

    @dataclasses.dataclass(frozen=True)
    class Apart:
        my_number: int = hp.option(3, "A number.")

    class Unregistered(pae_zoo.likelihoods.Gaussian):
        """Not registered with Keras."""

    def run(context):
        """A task."""

    def task(flags):
        return types.SimpleNamespace(run=run, Flags=flags)

    family = networks.Family("x", "y", lambda *args: [], lambda *args: [])
    model = types.SimpleNamespace(MODEL=models.find("ae").MODEL, HParams=Bare, __doc__="A model.")
    for given, words in [
        (("vae", dict(model=models.find("ae"))), "already"),
        (("mlp", dict(network=family)), "already"),
        (("gaussian", dict(likelihood=pae_zoo.likelihoods.Bernoulli)), "already"),
        (("ood", dict(task=task(Apart))), "already"),
        (("my_task", dict(task=models)), "needs a function run"),
        (("my_task", dict(task=task(Bare))), "number is not declared by"),
        (("my_task", dict(task=task(Taken))), "there is a flag --beta already"),
        (("my_task", dict(task=task(Apart))), "my_number needs group=hp.EVALUATION"),
        (("my_model", dict(model=evaluation)), "MODEL, HParams"),
        (("my_model", dict(model=model)), "number is not declared by"),
        (("my_model", dict(model=types.SimpleNamespace(MODEL="VAE", HParams=Bare, __doc__="x"))), "must be a subclass"),
        (("my_noise", dict(likelihood=Unregistered)), "not registered with Keras"),
        (("my_noise", dict(likelihood=object())), "must be a subclass"),
        (("my_net", dict(network="conv")), "must be a pae_zoo.networks.Family"),
        (("my_model", {}), "Nothing is given"),
        (("my model", dict(model=models.find("ae"))), "is no name"),
        ((3, dict(model=models.find("ae"))), "is no name"),
        (("my_net", dict(network=family, task=models)), "needs a function run"),
    ]:
        with pytest.raises(UserError, match=words):
            pae_zoo.register(given[0], **given[1])
    assert "my_net" not in networks.KINDS  # all or nothing


def test_a_name_of_ones_own_is_registered_again(monkeypatch):
    import pae_zoo

    monkeypatch.setattr(evaluation, "_REGISTERED", {})
    for number in range(2):
        task = types.SimpleNamespace(run=lambda context: iter(()))
        task.run.__doc__ = f"Task {number}."
        pae_zoo.register("my_task", task=task)
        assert evaluation.describe()["my_task"] == f"Task {number}."


def test_a_sweep_takes_plugins_and_what_a_run_passes_on(tmp_path):
    (tmp_path / "my_parts.py").write_text(PLUGIN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pae_zoo.sweep", "--grid", "loudness=2", "--seeds=0", "--out=sw", "--",
               "--plugin=my_parts", "--model=my_vae", "--smoke", "--epochs=1", "--hidden_units=4", "--tasks=my_task"]
    for words in (" s  ", "already finished"):
        found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert found.returncode == 0 and words in found.stdout, found.stdout + found.stderr
    refused = subprocess.run([*command[:4], "num_filters=4,8", *command[5:]], cwd=tmp_path, env=environment,
                             capture_output=True, text=True)
    assert refused.returncode == 2 and "num_filters, which has no effect" in refused.stderr
