"""The lowered step is the model's own training step, and JAX runs it where JAX is installed."""

import json
import subprocess
import sys

import lower_hlo
import lowering
import numpy as np
import pytest
import tensorflow as tf
from battery import build, hparams, images

from pae_zoo.experiment import fitting

STEPS, BATCH = 3, 8
DROPOUT = dict(encoder="resnet_fc", decoder="resnet_fc", dense_size=8, num_layers=1, dropout_rate=0.3)


def batches():
    return images(STEPS * BATCH).reshape(STEPS, BATCH, 6, 6, 1)


@pytest.mark.parametrize(
    "name, changes",
    [("ae", {}), ("vae", {}), ("vae", dict(clip_norm=0.5, weight_decay=0.1)), ("vae", DROPOUT)],
    ids=["ae", "vae", "clipped and decayed", "dropout"],
)
@pytest.mark.full
def test_the_functional_step_is_the_models_step(name, changes):
    params, x = hparams(name, **changes), batches()
    model = build(name, **changes)
    step = lowering.functional_step(model, params)
    carried = [tf.constant(array) for array in step.initial]
    losses = []
    for number in range(STEPS):
        seed = tf.constant([params.seed, number])
        loss, carried = step.function(carried, tf.constant(params.learning_rate), seed, tf.constant(x[number]))
        losses.append(float(loss))
    before = [np.array(v) for v in model.trainable_variables]
    for found, array in zip(before, step.initial):  # nothing was assigned
        np.testing.assert_array_equal(found, array)
    model.compile(optimizer=fitting.make_optimizer(params, STEPS), jit_compile=False)
    np.testing.assert_allclose(losses, [float(model.update(tf.constant(batch))) for batch in x], rtol=1e-5)
    variables = [*model.trainable_variables, *model.non_trainable_weights]
    for variable, found in zip(variables, carried):
        np.testing.assert_allclose(found, variable, atol=1e-5, err_msg=variable.path)


@pytest.fixture(scope="module", params=["ae", "vae"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    lowering.write_step(path, build(request.param), hparams(request.param), batches())
    return path


@pytest.mark.full
def test_what_write_leaves(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    text = (folder / "step.mlir").read_text()
    assert "stablehlo.dot" in text and manifest["custom_calls"] == []
    inputs, expected = np.load(folder / "inputs.npz"), np.load(folder / "expected.npz")
    assert inputs["x"].shape == (STEPS, BATCH, 6, 6, 1) and inputs["seeds"].tolist() == [[3, 0], [3, 1], [3, 2]]
    assert expected["losses"].shape == (STEPS,) and set(manifest["carried"]) < set(expected.files)
    assert any(not np.array_equal(inputs[name], expected[name]) for name in manifest["carried"])
    assert int(expected["state/step"] if "state/step" in expected else STEPS) == STEPS


@pytest.mark.full
def test_the_written_runner_needs_no_tensorflow(folder):
    words = [sys.executable, "-S", "-c", "import ast, sys; print(ast.parse(open(sys.argv[1]).read()).body)"]
    assert subprocess.run([*words, str(folder / "lower_hlo.py")], capture_output=True).returncode == 0
    source = (folder / "lower_hlo.py").read_text().splitlines()
    imports = {line for line in source if line.startswith(("import ", "from "))}
    assert imports == {"import argparse", "import json", "import os", "import sys", "import time", "import numpy as np"}


@pytest.mark.full
def test_jax_gives_the_same_weights(folder, capsys):
    pytest.importorskip("jax")
    assert lower_hlo.main(["run", str(folder), "--device=cpu", "--steps=4"]) == 0
    out = capsys.readouterr().out
    assert "equal" in out and "4 steps of 8 data" in out
    assert lower_hlo.main(["run", str(folder), "--device=cpu", "--steps=0", "--tolerance=-1"]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


def test_comparison_tells_a_wrong_result(capsys):
    manifest = {"carried": ["weight/a", "state/n"]}
    inputs = {"weight/a": np.zeros(4), "state/n": np.zeros(())}
    expected = {"weight/a": np.ones(4), "losses": np.array([2.0])}
    check = lower_hlo._compare
    assert check(manifest, inputs, expected, [2.0], [np.ones(4), np.ones(())], 1e-4)
    assert not check(manifest, inputs, expected, [2.1], [np.ones(4), np.ones(())], 1e-4)
    assert not check(manifest, inputs, expected, [2.0], [np.full(4, 1.01), np.ones(())], 1e-4)
    assert "1.00e-02" in capsys.readouterr().out


@pytest.mark.full
def test_a_program_with_other_parameters_is_noticed(folder):
    text = (folder / "step.mlir").read_text()
    with pytest.raises(RuntimeError, match="parameters and results"):
        lowering._check_signature(text, 3, 4)


@pytest.mark.parametrize(
    "argv, message",
    [
        (["write", "{0}", "--", "--model=vea"], "vea"),
        (["write", "{0}", "--", "--latent_dim=x"], "latent_dim"),
        (["write", "{0}", "--", "--optimizer=sgd", "--dataset=digits"], "use adam"),
        (["write", "{0}", "--steps=0"], "at least 1"),
        (["run", "{0}"], "cannot be read"),
        (["run", "{0}", "--", "--model=ae"], "takes none"),
    ],
)
def test_bad_input_is_one_line_and_status_2(argv, message, tmp_path, capsys):
    target = tmp_path / "new"
    assert lower_hlo.main([word.format(target) for word in argv]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
    assert not target.exists()


def test_an_existing_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    assert lower_hlo.main(["write", str(tmp_path), "--", "--model=ae", "--dataset=digits", "--hidden_units=4"]) == 2
    assert "exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
