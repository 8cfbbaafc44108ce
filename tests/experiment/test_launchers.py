"""The command line: what is printed, what is written, exit statuses, resume after SIGKILL and SIGTERM."""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from battery import ROWS
from tiers import some

from pae_zoo import evaluate, evaluation, main, models
from pae_zoo.core import hparams as hp
from pae_zoo.core import records
from pae_zoo.experiment import launch, record
from pae_zoo.experiment.session import default_tasks
from pae_zoo.experiment.workdir import Run, workdirs

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ["--smoke", "--nojit_compile", "--latent_dim=2"]


def call(*argv, launcher=main):
    return launch.run(launcher.main, list(argv))


def refused(capsys, *argv, launcher=main):
    """Runs a command that must fail: status 2, one line on stderr; returns that line."""
    assert call(*argv, launcher=launcher) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("pae_zoo: error: "), lines
    return lines[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished smoke run of vae."""
    workdir = tmp_path_factory.mktemp("finished") / "vae"
    assert call("--model=vae", *SMOKE, f"--workdir={workdir}") == 0
    return workdir


# ---- help --------------------------------------------------------------------------------------------------


def test_help_without_a_model_lists_what_there_is(capsys):
    assert call("--help") == 0
    text = capsys.readouterr().out
    for word in ("vae", "ae", "digits", "fashion_mnist", "npz:FILE", "mlp", "infogan", "reconstruction", "ood",
                 *models.PUBLISHED):
        assert word in text


@pytest.mark.parametrize("name", list(models.every()))
def test_helpfull_lists_shared_and_own_flags_only(name, capsys):
    assert call(f"--model={name}", "--helpfull") == 0
    text = capsys.readouterr().out
    module = models.find(name)
    kinds = ["mlp"] if record.has_networks(module) else []
    mine = {f.name for f in hp.flag_fields(record.record(module, kinds))}
    mine -= set().union(*({f.name for f in hp.flag_fields(flags)} for flags in evaluation.flag_records().values()))
    mine |= {f.name for f in hp.flag_fields(module.HParams)}
    of_tasks = evaluation.flag_records()
    mine |= {f.name for task in default_tasks(module.MODEL) if task in of_tasks for f in hp.flag_fields(of_tasks[task])}
    aside = {f.name for f in hp.flag_fields(module.HParams) if f.metadata["aside"]}
    mine -= aside
    assert not aside or f"training: {len(aside)} more" in text
    others = {f.name for m in models.MODULES.values() for f in records.own_fields(m.HParams)} - mine
    shown = {line.split("=")[0].strip().removeprefix("--").removeprefix("[no]")
             for line in text.splitlines() if line.startswith("  --")}
    assert shown == mine and not shown & others


def test_helpfull_finds_the_model_in_a_flagfile(tmp_path, capsys):
    config = tmp_path / "a.cfg"
    config.write_text("# comment\n--model=ae\n")
    assert call(f"--flagfile={config}", "--helpfull") == 0
    assert "--objective_type=plain" in capsys.readouterr().out


# ---- a run and its files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", some(list(ROWS), ["lae_posthoc"]))
def test_smoke_run_leaves_its_files(name, tmp_path, capsys):
    flags = [f"--{k}={','.join(map(str, v)) if isinstance(v, tuple) else v}" for k, v in ROWS[name].flags.items()]
    workdir = tmp_path / "run"
    assert call(f"--model={ROWS[name].model}", *flags, *SMOKE, f"--workdir={workdir}") == 0
    out = capsys.readouterr().out
    assert "device" in out and "python -m pae_zoo.evaluate" in out and "picture: " in out
    for file in ("config.json", "flags.cfg", "metrics.jsonl", "metrics.json", "model.keras", "checkpoints/last.npz",
                 "latent_map.npz", "report.html"):
        assert (workdir / file).is_file(), file
    assert list((workdir / "figures").glob("*.png")) and list((workdir / "tensorboard").rglob("events*"))
    assert not list(workdir.rglob(".writing-*"))
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert metrics["test/mse"] > 0 and metrics["train/steps"] == 16
    config = json.loads((workdir / "config.json").read_text())
    assert config["hparams"]["smoke"] and config["versions"]["keras"]
    loaded = keras.saving.load_model(workdir / "model.keras")
    assert loaded.latent_dim == 2


def test_flags_cfg_repeats_the_run(finished, tmp_path):
    tasks = "--tasks=reconstruction"  # one task tells whether the weights are the same
    assert call(f"--flagfile={finished}/flags.cfg", tasks, f"--workdir={tmp_path / 'again'}") == 0
    assert Run(finished).read_metrics()["test/mse"] == Run(tmp_path / "again").read_metrics()["test/mse"]


def test_a_finished_run_is_left_alone(finished, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    assert call("--model=vae", *SMOKE, f"--workdir={finished}") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}


def test_a_run_killed_after_training_finishes_its_evaluation(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    for name in ("metrics.json", "model.keras"):
        (copy / name).unlink()
    assert call("--model=vae", *SMOKE, f"--workdir={copy}") == 0
    assert Run(copy).read_metrics()["test/elbo"] == Run(finished).read_metrics()["test/elbo"]


def test_another_hyper_parameter_is_refused_with_the_difference(finished, capsys):
    line = refused(capsys, "--model=vae", *SMOKE, "--beta=2", f"--workdir={finished}")
    assert "beta: 1.0 -> 2.0" in line
    assert "may only be raised" in refused(capsys, "--model=vae", *SMOKE, "--epochs=1", f"--workdir={finished}")


def test_a_run_whose_schedule_depends_on_the_length_cannot_be_made_longer(tmp_path, capsys):
    flags = ["--model=ae", "--num_train=64", "--nojit_compile", "--hidden_units=4", "--epochs=1"]
    flags.append(f"--workdir={tmp_path}")
    assert call(*flags, "--lr_schedule=cosine", "--batch_size=32") == 0
    capsys.readouterr()
    line = refused(capsys, *flags, "--lr_schedule=cosine", "--batch_size=32", "--epochs=2")
    assert "depends on the length" in line


def test_flags_of_choices_name_what_the_code_knows():
    from pae_zoo import likelihoods

    field = next(f for f in hp.dataclasses.fields(records.SharedHParams) if f.name == "likelihood")
    assert set(field.metadata["choices"]) == set(likelihoods.NAMES)


def test_evaluate_merges_its_keys(finished, capsys):
    before = Run(finished).read_metrics()
    assert call(f"--workdir={finished}", "--tasks=ood", "--ood_datasets=noise", launcher=evaluate) == 0
    after = Run(finished).read_metrics()
    assert {k: after[k] for k in before} == before
    assert 0 <= after["ood/noise/elbo/auroc"] <= 1
    assert "noise" in capsys.readouterr().out


def test_evaluate_sums_several_runs_up(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "again")
    assert call(f"--workdirs={finished},{tmp_path / 'again'}", "--tasks=reconstruction", launcher=evaluate) == 0
    first, summary = capsys.readouterr().out.split("over 2 runs")
    assert "+-" not in first
    assert next(line for line in summary.splitlines() if "test/mse  " in line).endswith("+- 0")


def test_a_pattern_means_runs_and_not_what_lies_beside_them(finished, tmp_path):
    for name in ("0", "1"):
        shutil.copytree(finished, tmp_path / name)
    (tmp_path / "distance_stability").mkdir()
    (tmp_path / "log").write_text("")
    found = workdirs(evaluate.Flags(workdirs=(str(tmp_path / "*"),)))
    assert found == [str(tmp_path / name) for name in ("0", "1")]


def test_init_workdir_starts_from_another_run(finished, tmp_path, capsys):
    workdir = tmp_path / "next"
    start_from = f"--init_workdir={finished}"
    few = ["--learning_rate=1e-9", "--tasks=reconstruction"]
    assert call("--model=vae", *SMOKE, start_from, f"--workdir={workdir}", *few) == 0
    mine, theirs = (keras.saving.load_model(d / "model.keras") for d in (workdir, finished))
    np.testing.assert_allclose(mine.decoder.get_weights()[0], theirs.decoder.get_weights()[0], atol=1e-6)


def test_a_start_that_does_not_fit_is_told_before_anything_is_done(finished, tmp_path, capsys):
    misfit = tmp_path / "misfit"
    start_from = (f"--init_workdir={finished}", f"--workdir={misfit}", "--smoke")
    assert "does not fit" in refused(capsys, "--model=vae", "--latent_dim=3", *start_from)
    line = refused(capsys, "--model=gp_circle", *start_from)
    assert "is a run of vae, from which gp_circle can take nothing" in line and "likelihood" not in line
    assert not misfit.exists()


def test_next_commands_are_quoted_for_a_shell(finished, tmp_path, capsys):
    copy = tmp_path / "it's a run; $(touch x)"
    shutil.copytree(finished, copy)
    (copy / "metrics.json").unlink()
    (copy / "checkpoints" / ".writing-0123.npz").write_bytes(b"of a process that was killed")
    assert call("--model=vae", *SMOKE, f"--workdir={copy}") == 0
    text = capsys.readouterr().out
    commands = [shlex.split(line) for line in text.partition("Next:")[2].splitlines() if line.strip()]
    assert [f"--workdir={copy}" in words for words in commands] == [True, True, True, False]
    assert commands[3][1] == f"--logdir={copy}/tensorboard"
    assert not list(copy.rglob(".writing-*"))


def test_the_default_workdir(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert call("--model=ae", *SMOKE) == 0
    assert (tmp_path / "runs/ae/digits/0/metrics.json").is_file()


# ---- bad input -----------------------------------------------------------------------------------------------


BAD = {
    "unknown model": (["--model=vea"], "did you mean vae"),
    "unknown flag": (["--latnt_dim=2"], "did you mean latent_dim"),
    "wrong type": (["--latent_dim=two"], "--latent_dim=two"),
    "wrong boolean": (["--jit_compile=perhaps"], "jit_compile"),
    "out of range": (["--latent_dim=0"], "at least 1"),
    "not finite": (["--beta=nan"], "not a finite number"),
    "unknown word": (["--likelihood=gausian"], "did you mean gaussian"),
    "unknown data set": (["--dataset=digit"], "digits"),
    "unknown task": (["--tasks=reconstrction"], "reconstruction"),
    "unknown ood set": (["--ood_datasets=mnits"], "mnist"),
    "other classes of all": (["--tasks=ood", "--ood_datasets=other_classes"], "train one with --classes=0"),
    "ood set like one made": (["--ood_datasets=nois"], "did you mean noise"),
    "missing ood set": (["--tasks=ood", "--ood_datasets=noise,npz:no.npz"], "leave npz:no.npz out of --ood_datasets"),
    "ood set to be fetched": (["--tasks=density", "--ood_datasets=kmnist", "--download=false"],
                              "put its files in <data_dir>/kmnist/"),
    "ood set of vectors": (["--tasks=ood", "--ood_datasets=circle"], "has data of shape (2,)"),
    "stability_dir under a file": (["--tasks=distance_stability", "--stability_dir=/dev/null/x"], "--stability_dir="),
    "missing mask": (["--tasks=restoration", "--mask=no.npy"], "no.npy does not exist"),
    "mask beyond the images": (["--tasks=restoration", "--mask=columns:0-9"], "reaches beyond"),
    "imputation mask beyond": (["--tasks=imputation", "--imputation_masks=rows:0-9"], "reaches beyond"),
    "unknown network": (["--encoder=mpl"], "mlp"),
    "unknown preprocessing": (["--preprocess=dequantize"], "dequantise"),
    "unknown augmentation": (["--augment=spin"], "rotate"),
    "illegal network": (["--encoder=conv", "--dataset=circle"], "conv"),
    "range and output": (["--output=sigmoid", "--preprocess=centre"], "--output=sigmoid"),
    "exclusive options": (["--capacity=3", "--free_bits=2"], "exclude each other"),
    "augmented vectors": (["--dataset=circle", "--augment=flip"], "for images"),
    "stray word": (["vae"], "unexpected word"),
    "missing flagfile": (["--flagfile=missing.cfg"], "missing.cfg"),
    "missing npz": (["--dataset=npz:missing.npz"], "missing.npz"),
    "missing data_dir": (["--dataset=mnist", "--data_dir=missing_dir"], "missing_dir"),
    "missing class": (["--classes=0,11"], "11"),
    "no gpu": (["--device=gpu"], "--device=cpu"),
    "init without a run": (["--init_workdir=missing_run"], "missing_run"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_writes_nothing(what, tmp_path, capsys):
    flags, expected = BAD[what]
    if what == "no gpu" and keras.backend.backend() and launch_sees_gpu():
        pytest.skip("this machine has a GPU, so --device=gpu is no error")
    line = refused(capsys, *flags, "--smoke", f"--workdir={tmp_path / 'run'}")
    assert expected in line
    assert not (tmp_path / "run").exists()


def launch_sees_gpu():
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def test_a_workdir_that_holds_something_else_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert "not empty" in refused(capsys, *SMOKE, f"--workdir={tmp_path}")
    assert os.listdir(tmp_path) == ["thesis.txt"]
    assert "is a file" in refused(capsys, *SMOKE, f"--workdir={tmp_path / 'thesis.txt'}")


@pytest.mark.parametrize("flags,expected", [
    ([], "--workdir is needed"),
    (["--workdir=missing"], "missing"),
    (["--workdirs=nothing_*"], "matches no folder"),
])  # fmt: skip
def test_evaluate_refuses_what_is_no_run(flags, expected, capsys):
    assert expected in refused(capsys, *flags, launcher=evaluate)


def test_evaluate_finds_ood_sets_first_and_keeps_what_is_done(finished, tmp_path, capsys, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "metrics.json").unlink()
    flags = [f"--workdir={copy}", "--tasks=reconstruction,ood", "--ood_datasets=npz:no.npz"]
    assert "leave npz:no.npz out" in refused(capsys, *flags, launcher=evaluate)
    assert not (copy / "metrics.json").exists()

    def failing(context):
        yield "ood/a", 1.0
        raise RuntimeError("a fault")

    monkeypatch.setattr("pae_zoo.evaluation.tasks.ood.run", failing)
    assert call(f"--workdir={copy}", "--tasks=reconstruction,ood", launcher=evaluate) == 1
    assert Run(copy).read_metrics()["test/mse"] == Run(finished).read_metrics()["test/mse"]
    assert "ood/a" not in Run(copy).read_metrics()
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line == f"pae_zoo: error: RuntimeError: a fault. The traceback is in {copy}/error.txt."
    assert "in failing" in (copy / "error.txt").read_text()


def test_evaluate_refuses_an_unknown_task(finished, capsys):
    line = refused(capsys, f"--workdir={finished}", "--tasks=odd", launcher=evaluate)
    assert "ood" in line


def test_a_broken_model_file_is_told_in_one_line(finished, tmp_path, capsys):
    copy = tmp_path / "broken"
    shutil.copytree(finished, copy)
    (copy / "model.keras").write_bytes(b"no zip file")
    assert "model.keras is not a readable" in refused(capsys, f"--workdir={copy}", launcher=evaluate)


# ---- processes -----------------------------------------------------------------------------------------------


def start(*argv, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "pae_zoo.main", *argv]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen(command, env=environment, **pipes, **options)


@pytest.mark.full
def test_importing_the_launcher_is_quiet_and_lazy():
    # TensorFlow and Keras bring some of these themselves: what counts is what this package adds.
    code = (
        "import sys; sys.argv = ['-m']; import pae_zoo; before = set(sys.modules); import pae_zoo.main; "
        "heavy = ('sklearn', 'matplotlib', 'scipy', 'tensorflow_datasets', 'tensorboard'); "
        "print('added:', sorted(m for m in set(sys.modules) - before if m.split('.')[0] in heavy)); "
        "print('tfds' if 'tensorflow_datasets' in sys.modules or 'tensorboard' in sys.modules else 'none')"
    )
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.split("\n")[:2] == ["added: []", "none"]


FLAGS = ["--latent_dim=2", "--hidden_units=16", "--batch_size=64", "--epochs=25", "--steps_per_call=3",
         "--checkpoint_seconds=0", "--tasks=reconstruction"]  # fmt: skip


@pytest.mark.full  # test_training.py has the same without processes of their own
def test_resume_after_sigkill_equals_the_uninterrupted_run(tmp_path):
    flags = ["--model=vae", *FLAGS]
    parts = [*flags, f"--workdir={tmp_path / 'parts'}"]
    killed = start(*parts)
    checkpoint = tmp_path / "parts/checkpoints/last.npz"
    deadline = time.monotonic() + 600
    while not checkpoint.exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(random.uniform(0.0, 1.0))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not (tmp_path / "parts/metrics.json").exists(), "killed too late to test anything"
    resumed = start(*parts)
    out, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert "resuming after epoch" in out
    assert call(*flags, f"--workdir={tmp_path / 'whole'}") == 0
    a, b = (Run(tmp_path / part).load_arrays("last")[0] for part in ("whole", "parts"))
    for mine, theirs in zip(a, b):
        np.testing.assert_array_equal(mine, theirs)
    lines = [[{k: v for k, v in line.items() if k != "seconds"} for line in Run(tmp_path / part).read_history()]
             for part in ("whole", "parts")]
    assert lines[0] == lines[1]
    for key in ("test/mse",):
        assert Run(tmp_path / "whole").read_metrics()[key] == Run(tmp_path / "parts").read_metrics()[key]


@pytest.mark.full  # likewise
def test_sigterm_writes_a_checkpoint_and_says_how_to_go_on(tmp_path):
    process = start("--model=ae", *FLAGS, f"--workdir={tmp_path}", "--epochs=4000")
    deadline = time.monotonic() + 600
    while not (tmp_path / "checkpoints/last.npz").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err and "Start the same command again" in err
    assert Run(tmp_path).load_arrays("last")[1]["steps"] > 0 and not (tmp_path / "metrics.json").exists()


def test_an_ensemble_of_finished_runs(tmp_path, capsys):
    common = ["--model=ae", *SMOKE, "--hidden_units=8", "--likelihood=gaussian", "--scale=0.1"]
    runs = [tmp_path / name for name in ("one", "two")]
    for seed, workdir in enumerate(runs):
        assert call(*common, f"--seed={seed}", f"--workdir={workdir}", "--tasks=reconstruction") == 0
    joined = f"--member_workdirs={runs[0]},{runs[1]}"
    assert "runs, which are all members" in refused(
        capsys, "--model=deep_ensemble_ae", joined, "--num_members=3", f"--workdir={tmp_path / 'three'}")
    flags = ["--model=deep_ensemble_ae", "--smoke", joined, f"--workdir={tmp_path / 'all'}", "--tasks=reconstruction"]
    assert call(*flags) == 0
    model, members = Run(tmp_path / "all").load_model(), [Run(workdir).load_model() for workdir in runs]
    x = np.random.default_rng(0).random((3, *model.event_shape)).astype(np.float32)
    means = [member.likelihood.mean(member.decoder_outputs(member.codes(x))) for member in members]
    np.testing.assert_allclose(model.predictive(x, 2, (0, 0))["mean"], np.mean(means, axis=0), atol=1e-6)
    assert float(model.likelihood.scale) == pytest.approx(0.1) and model.num_members == 2
    # In the coordinates of the first, codes of the second are turned and moved, no more.
    codes, own = model.draw_codes(x, 2, seed=(0, 0)).numpy(), members[1].codes(x).numpy()
    np.testing.assert_allclose(codes[0], members[0].codes(x), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(codes[1] - codes[1, :1], axis=1), np.linalg.norm(own - own[:1], axis=1),
                               atol=1e-4)  # fmt: skip
