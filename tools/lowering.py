"""The half of lower_hlo.py that needs TensorFlow: a training step as a function, lowered to StableHLO."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Callable

import numpy as np
from command import use_package
from lower_hlo import StepError

BETA_1, BETA_2 = 0.9, 0.999


@dataclasses.dataclass(frozen=True)
class Step:
    """A training step without side effects.

    `function(carried, learning_rate, seed, x)` returns (loss, new carried). `carried` are the trainable
    weights, the rest of the model's state, and Adam's first and second moments, as `names` says.
    """

    function: Callable
    names: list[str]
    initial: list[np.ndarray]


def functional_step(model, hparams) -> Step:
    """Returns the training step of a model with Adam, as `Autoencoder.update` takes it; raises StepError."""
    import keras
    import tensorflow as tf

    from pae_zoo.models.base import to_float

    if hparams.optimizer not in ("adam", "adamw"):
        raise StepError(f"--optimizer={hparams.optimizer} is not lowered; use adam or adamw")
    trainable = model.trainable_variables
    # The counter `step` is among these, and so are power iterations, dropout counts and data statistics. Metrics
    # and Keras' own random generators are not: the seed is an argument.
    state = list(model.non_trainable_weights)
    sizes = [len(trainable), len(state), len(trainable), len(trainable)]

    def function(carried, learning_rate, seed, x):
        ends = np.cumsum(sizes)
        weights, others, first, second = (list(carried[end - n : end]) for end, n in zip(ends, sizes))
        with keras.StatelessScope(state_mapping=list(zip(trainable + state, weights + others))) as scope:
            with tf.GradientTape() as tape:
                tape.watch(weights)
                loss = tf.reduce_mean(model.objective(to_float(x), seed, training=True)["loss"])
            gradients = tape.gradient(loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
            model.step.assign(model.step.value + 1)
            steps = tf.cast(model.step.value, tf.float32)
        found = {id(v): scope.get_current_value(v) for v in state}
        if hparams.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, hparams.clip_norm)
        rate = learning_rate * tf.sqrt(1 - BETA_2**steps) / (1 - BETA_1**steps)
        first = [m + (g - m) * (1 - BETA_1) for m, g in zip(first, gradients)]
        second = [v + (tf.square(g) - v) * (1 - BETA_2) for v, g in zip(second, gradients)]
        if hparams.weight_decay:
            weights = [w - w * hparams.weight_decay * learning_rate for w in weights]
        weights = [
            w - rate * m / (tf.sqrt(v) + hparams.adam_epsilon) for w, m, v in zip(weights, first, second)
        ]
        weights = [v.constraint(w) if v.constraint is not None else w for v, w in zip(trainable, weights)]
        return loss, [*weights, *(found[id(v)] for v in state), *first, *second]

    names = [f"weight/{v.path}" for v in trainable] + [f"state/{v.path}" for v in state]
    names += [f"{moment}/{v.path}" for moment in ("first_moment", "second_moment") for v in trainable]
    arrays = [keras.ops.convert_to_numpy(v) for v in trainable + state]
    zeros = [np.zeros_like(a) for a in arrays[: len(trainable)]]
    if len(set(names)) < len(names):  # two layers of one name: numbers tell them apart
        names = [f"{name}#{i}" for i, name in enumerate(names)]
    return Step(function, names, [np.array(a) for a in arrays] + zeros + zeros)


def write(folder: str, steps: int, argv: list[str]) -> int:
    """Lowers the step of the model that the launcher's flags describe into the new folder `folder`."""
    use_package()
    from pae_zoo import models
    from pae_zoo.core import files
    from pae_zoo.core.errors import UserError
    from pae_zoo.experiment import launch

    try:
        argv = launch.expand_flagfiles(argv)
        module = models.find(launch.value_of(argv, "model", "vae"))
        hparams, _ = launch.parse_model(module, argv)
        launch.set_device("cpu", hparams.precision)  # what a CPU lowers, every device runs
        dataset = launch.load_dataset(hparams)
        batch_size = min(hparams.batch_size, len(dataset.train.x))
        model = module.MODEL.from_hparams(hparams, dataset.event_shape, steps)
        model.adapt(dataset.train.x)
        try:
            with files.folder(Path(folder)) as path:
                count = write_step(path, model, hparams, _batches(dataset.train.x, batch_size, steps))
        except FileExistsError:
            raise StepError(f"{folder} exists; give a new folder")
    except UserError as error:
        raise StepError(str(error).rstrip("."))
    print(
        f"{hparams.model}: {count['lines']} lines of StableHLO, {count['parameters']} parameters, "
        f"{count['custom_calls'] or 'no'} custom calls -> {folder}\n"
        f"Next: python {folder}/lower_hlo.py run {folder}"
    )
    return 0


def _batches(x: np.ndarray, batch_size: int, steps: int) -> np.ndarray:
    """Returns the first batches of x, starting again at its end: (steps, batch_size, *event)."""
    return x[np.arange(steps * batch_size) % len(x)].reshape(steps, batch_size, *x.shape[1:])


def write_step(folder: Path, model, hparams, x: np.ndarray) -> dict:
    """Writes the lowered step and its check into the folder, for batches x (steps, batch, *event)."""
    import tensorflow as tf

    step = functional_step(model, hparams)
    rate = np.float32(hparams.learning_rate)
    seeds = np.array([[hparams.seed & 0x7FFFFFFF, number] for number in range(len(x))], np.int32)
    compiled = tf.function(step.function, jit_compile=True, autograph=False)
    carried = [tf.constant(array) for array in step.initial]
    arguments = (carried, tf.constant(rate), tf.constant(seeds[0]), tf.constant(x[0]))
    captured = compiled.get_concrete_function(*arguments).captured_inputs
    if any(tensor.dtype == tf.resource for tensor in captured):
        raise StepError(
            f"the step of {hparams.model} reads TensorFlow variables that are no weights of the model"
        )
    text = compiled.experimental_get_compiler_ir(*arguments)(stage="stablehlo")
    parameters = len(step.names) + 3 + len(captured)
    _check_signature(text, parameters, 1 + len(step.names))
    losses = []
    for number in range(len(x)):
        loss, carried = compiled(
            carried, tf.constant(rate), tf.constant(seeds[number]), tf.constant(x[number])
        )
        losses.append(float(loss))
    inputs = dict(zip(step.names, step.initial), learning_rate=rate, seeds=seeds, x=x)
    constants = {f"constant/{i}": tensor.numpy() for i, tensor in enumerate(captured)}
    custom_calls = sorted(set(re.findall(r"custom_call @(\w+)", text)))
    manifest = {
        "model": hparams.model,
        "carried": step.names,
        "constants": list(constants),
        "custom_calls": custom_calls,
        "parameters": ["carried...", "learning_rate", "seeds[i]", "x[i]", "constants..."],
        "results": ["loss", "carried..."],
        "tensorflow": tf.__version__,
    }
    (folder / "step.mlir").write_text(text, encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    np.savez(folder / "inputs.npz", **inputs, **constants)
    np.savez(
        folder / "expected.npz",
        losses=np.array(losses),
        **{n: t.numpy() for n, t in zip(step.names, carried)},
    )
    shutil.copyfile(Path(__file__).with_name("lower_hlo.py"), folder / "lower_hlo.py")
    return {"lines": text.count("\n"), "parameters": parameters, "custom_calls": len(custom_calls)}


def _check_signature(text: str, parameters: int, results: int) -> None:
    """Raises RuntimeError unless the program has the parameters and results that the manifest promises."""
    head = re.search(
        r"func\.func (?:public )?@main\((.*?)\) -> (.*?) ?(?:attributes .*)?\{\n", text, re.DOTALL
    )
    if head is None:
        raise RuntimeError("the lowered program has no function `main`")
    found = len(re.findall(r"%arg\d+:", head.group(1))), len(re.findall(r"tensor<", head.group(2)))
    if found != (parameters, results):
        raise RuntimeError(
            f"the lowered program has {found} parameters and results; expected {(parameters, results)}"
        )
