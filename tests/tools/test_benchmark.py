"""The benchmark compares the same work: its plain loops train as the model does, and turns are counted right."""

import json
import os
import subprocess

import benchmark
import benchmarks
import keras
import numpy as np
import pytest
import tensorflow as tf
import turn_takers
from battery import build, images
from benchmarks import _contenders, _loops, _network, _rounds, restoration, train

from pae_zoo import models
from pae_zoo.experiment import record

ROWS = np.array([[3, 1, 4, 5], [9, 2, 6, 8], [7, 0, 3, 9]])


def make_model(kind):
    options = dict(encoder="conv", decoder="conv", num_filters=2) if kind == "conv" else {}
    model = build("ae", event_shape=(7, 7, 1), likelihood="gaussian_learned", **options)
    model.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    return model


def train_plainly(model, x):
    return np.mean([float(model.update(tf.constant(x[rows]))) for rows in ROWS])


def check_equal(model, x, loop, arrays):
    expected = train_plainly(model, x)
    np.testing.assert_allclose(loop(ROWS), expected, rtol=1e-5)
    trained = _network.describe(model)
    wanted = [array for layer in trained.layers for array in layer.arrays]
    for found, array in zip(arrays(), wanted, strict=True):
        # Adam turns the rounding of a gradient near zero into a good part of a step of 1e-3, in a single weight.
        assert np.mean(np.abs(found - array)) < 5e-5 and np.max(np.abs(found - array)) < 2e-3


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.full
def test_the_hand_written_loop_trains_as_the_model_does(kind):
    model, x = make_model(kind), images(10, event_shape=(7, 7, 1))
    loop = _loops.HandLoop(_network.describe(model), x)
    check_equal(model, x, loop, lambda: [w.numpy() for w in loop.weights[:-1]])
    assert float(loop.weights[-1]) == pytest.approx(float(model.likelihood.log_variance.numpy()), abs=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.full
def test_the_torch_loop_trains_as_the_model_does(kind):
    pytest.importorskip("torch")
    model, x = make_model(kind), images(10, event_shape=(7, 7, 1))
    network = _network.describe(model)
    loop = _loops.TorchLoop(network, x)

    def arrays():
        kinds = [(layer.kind, index) for layer in network.layers for index in range(len(layer.arrays))]
        for (kind, index), weight in zip(kinds, loop.weights, strict=True):
            array = weight.detach().numpy()
            if index == 0 and kind.startswith("conv"):
                array = array.transpose(2, 3, 1, 0)
            yield array.T if index == 0 and kind == "dense" else array

    check_equal(model, x, loop, arrays)


def test_operations_of_a_step_are_counted_by_hand():
    params = record.make("ae", hidden_units=(512, 256, 128), latent_dim=2)
    network = _network.describe(models.find("ae").MODEL.from_hparams(params, (28, 28, 1), 1))
    sizes = [784 * 512, 512 * 256, 256 * 128, 128 * 4, 2 * 128, 128 * 256, 256 * 512, 512 * 784]
    assert network.step_flops(128) == 2 * 128 * (3 * sum(sizes) - 784 * 512)
    shapes = _contenders.step_shapes(network, 128)
    assert sum(2 * a * b * c for a, b, c in shapes) == network.step_flops(128)
    assert network.num_weights == sum(sizes) + 512 + 256 + 128 + 4 + 128 + 256 + 512 + 784 + 1


def test_operations_of_convolutions_count_pixels():
    network = _network.describe(make_model("conv"))
    macs = [layer.macs for layer in network.products]
    # 7x7 -> 4x4 by 5x5, 1 -> 2 filters; 4x4 -> 2x2 by 3x3, 2 -> 4 filters.
    assert macs[:2] == [16 * 25 * 2, 4 * 9 * 2 * 4]
    # From 2x2 up: each input pixel meets the whole kernel.
    assert macs[4] == 4 * 9 * 8 * 4


def test_a_layer_that_the_loops_do_not_know_is_refused():
    model = build("ae", event_shape=(8, 8, 1), encoder="infogan", decoder="infogan")
    with pytest.raises(ValueError, match="know no layer SpectralNorm"):
        _network.describe(model)


@pytest.mark.full
def test_fit_takes_its_turns_through_the_launcher(tmp_path, capsys):
    requests, found = iter([True, True, False]), []
    baton = _rounds.Baton(lambda: next(requests), found.append)
    argv = ["--model=ae", "--dataset=digits", "--num_train=256", "--hidden_units=8", "--steps_per_call=2",
            "--batch_size=64", "--nojit_compile", "--epochs=1000"]
    with pytest.raises(_rounds.Finished):
        _contenders.fit(baton, argv)
    assert len(found) == 2
    assert found[0]["steps_per_call"] == 2
    assert all(0 < turn["calls_ms"] <= turn["ms"] and turn["validation_ms"] > 0 for turn in found)


def test_alternating_rounds(monkeypatch):
    monkeypatch.delenv("TURN_TAKER", raising=False)
    said = []
    contenders = [
        _rounds.Contender("plain", turn_takers.counts, dict(steps=2)),
        _rounds.Contender("told", turn_takers.counts, dict(steps=4), {"TURN_TAKER": "7"}),
    ]
    found = _rounds.alternate(contenders, 3, said.append)
    assert [len(turns) for turns in found.values()] == [3, 3] and len(said) == 3
    assert [turn["seen"] for turn in found["plain"] + found["told"]] == [0, 0, 0, 7, 7, 7]
    assert found["plain"][0]["setup_s"] > 0 and "TURN_TAKER" not in os.environ


def test_a_contender_that_fails_ends_the_benchmark_with_its_log():
    with pytest.raises(RuntimeError, match="no such luck(?s:.*)what the log holds"):
        _rounds.alternate([_rounds.Contender("bad", turn_takers.fails)], 1, print)


def turns(*ms, **more):
    return [dict(ms=value, cpu_ms=2 * value, **more) for value in ms]


def test_ratios_are_formed_within_a_round():
    assert _rounds.ratio(turns(1.0, 20.0, 3.0), turns(2.0, 10.0, 1.0)) == 2.0
    assert _rounds.median(turns(1.0, 20.0, 3.0), "ms") == 3.0


def test_what_the_table_says(capsys):
    fit = turns(10.0, 12.0, 11.0, calls_ms=9.0, validation_ms=1.0)
    field = {train.FIT: fit, train.HAND: turns(9.0, 9.0, 9.9), train.GRADIENTS: turns(7.0, 7.0, 7.0),
             train.OWN: turns(6.0, 6.0, 6.0), train.CUBE: turns(10.0, 10.0, 10.0)}
    ratios = train._ratios(field, flops=2 * 1024**3)
    assert ratios["fit/hand"] == pytest.approx(0.9) and ratios["floor_ms"] == pytest.approx(10.0)
    assert ratios["time/floor"] == pytest.approx(1.1)
    assert "fit/torch" not in ratios
    train._judge("mlp", ratios)
    lines = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "|" in line}
    assert "MISSED" in lines["fit/hand"] and "reached" in lines["time/floor"]
    parts = train._parts(field)
    assert sum(v for k, v in parts.items() if "not counted" not in k) == pytest.approx(11.0)


def test_json_is_written_whole(tmp_path):
    cases = {"mlp/ratios": {"fit/hand": 0.95}}
    benchmarks.write_json(str(tmp_path / "new" / "out.json"), cases)
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == cases
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_random_data_are_said_to_be_random(tmp_path, capsys):
    (flag,) = train._data_flags("", str(tmp_path))
    assert "random bytes" in capsys.readouterr().out
    with np.load(flag.removeprefix("--dataset=npz:")) as file:
        assert file["x_train"].shape == (60_000, 28, 28, 1) and file["x_train"].dtype == np.uint8


def test_a_process_is_timed_and_its_failure_told():
    assert train._time_process(["-S", "-c", "pass"])["s"] > 0
    with pytest.raises(RuntimeError, match="ended with status 3"):
        train._time_process(["-S", "-c", "raise SystemExit(3)"])


def test_the_first_result_counts_what_comes_after_tensorflow(monkeypatch, capsys):
    said = {"tensorflow_cpu_s": 5.0, "package_cpu_s": 2.0, "fit_cpu_s": 3.0, "fitted_cpu_s": 5.0, "peak_mib": 900.0}
    programs = []

    def run(words):
        programs.append(words[-1])
        return subprocess.CompletedProcess(words, 0, f"chatter\n{json.dumps(said)}\n", "")

    monkeypatch.setattr(train, "_run_process", run)
    cases = train.first(rounds=2)
    assert cases["first/Flow(9), 100 rows"] == said and len(programs) == 1 + 2 * len(cases)
    assert capsys.readouterr().out.count("reached") == len(cases)
    for program in programs:
        compile(program, "program", "exec")


@pytest.mark.parametrize("argv", [["nothing"], ["train", "--rounds=0"], ["train", "--cases=mlp,x"], []])
def test_bad_flags_are_told_in_one_line(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        benchmark.main(argv)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_benchmarks_are_found_by_name(capsys):
    assert "train" in benchmarks.find() and "_rounds" not in benchmarks.find()
    with pytest.raises(SystemExit) as stop:
        benchmark.main(["--help"])
    assert stop.value.code == 0 and "train" in capsys.readouterr().out


@pytest.mark.full
def test_the_contenders_of_the_restoration_benchmark_find_the_same_maxima(capsys):

    def best(work, images):
        requests, said = iter([True, False]), []
        with pytest.raises(_rounds.Finished):
            work(_rounds.Baton(requests.__next__, said.append), images=images, starts=2, latents=2, width=3)
        return said[0]["log_joint"]

    assert best(restoration.looped, 2) == pytest.approx(best(restoration.batched, 2), abs=0.01)
    assert best(restoration.stepped, 1) == pytest.approx(best(restoration.batched, 1), abs=0.1)
    names = (restoration.BATCHED, restoration.LOOPED, restoration.STEPPED)
    field = {name: turns(*ms, log_joint=1.0, setup_s=2.0) for name, ms in zip(names, ([1.0], [30.0], [10.0]))}
    ratios = restoration.summary(field)["restoration/ratios"]
    assert ratios["loop/batched"] == pytest.approx(30.0)
    lines = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines() if "|" in line}
    assert "reached" in lines["loop/batched"] and "MISSED" in lines["loop of steps/batched"]


def test_the_imputation_benchmark_fills_in_tables(capsys):
    assert benchmark.main(["imputation", "--quick", "--sets=wine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("wine") and "60 x 13" in line for line in lines)
