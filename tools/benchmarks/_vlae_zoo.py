"""What takes turns in `benchmark.py vlae`; each function runs in a process of its own."""

import dataclasses
import functools
import math
from typing import Any, Callable, Optional

import numpy as np

from benchmarks import _hlo
from benchmarks._memory import Memory
from benchmarks._rounds import Baton

# Rows of the training data: enough that the batches of a turn differ.
NUM_ROWS = 2048


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a step: D, H, K and the batch."""

    data_dim: int
    hidden: int
    latents: int
    batch: int

    def flags(self) -> list[str]:
        """Returns the launcher's flags for the published network at these sizes."""
        return [f"--hidden_units={self.hidden},{self.hidden}", f"--latent_dim={self.latents}", "--encoder=vlae",
                "--decoder=vlae", "--preprocess=centre", "--likelihood=gaussian_learned", "--kl=mc",
                "--posterior_std=exp", "--dataset=npz:none", "--workdir=none"]


def data(sizes: Sizes) -> np.ndarray:
    """Returns rows in [0, 1] that a decoder of few latents can follow, (NUM_ROWS, D), float32."""
    generator = np.random.default_rng(0)
    codes = generator.normal(size=(NUM_ROWS, 8))
    rows = codes @ generator.normal(size=(8, sizes.data_dim)) + 0.3 * generator.normal(size=(NUM_ROWS, sizes.data_dim))
    return (1 / (1 + np.exp(-rows))).astype(np.float32)


def build(argv: list[str], sizes: Sizes):
    """Returns the model of the launcher's flags, ready to train as the launcher trains it."""
    import keras

    from pae_zoo import models
    from pae_zoo.experiment import launch

    module = models.find(launch.value_of(argv, "model", "vae"))
    hparams, _ = launch.parse_model(module, [*sizes.flags(), *argv])
    model = module.MODEL.from_hparams(hparams, (sizes.data_dim,), 1)
    model.adapt(data(sizes))
    model.compile(keras.optimizers.Adam(5e-4, epsilon=1e-8))
    model.optimizer.build(model.trained_variables)
    return model


def train(baton: Baton, argv: list[str], sizes: Sizes, steps: int, xla: Optional[bool] = None) -> None:
    """The zoo's own training steps in one compiled function; XLA where the model chooses it, or as `xla` says."""
    import tensorflow as tf

    model, x = build(argv, sizes), tf.constant(data(sizes))

    def run(rows):
        def body(i, loss):
            return i + 1, model.update(tf.gather(x, rows[i]))

        return tf.while_loop(lambda i, loss: i < steps, body, (0, 0.0))[1]

    compiled = tf.function(run, jit_compile=model.xla_pays if xla is None else xla, autograph=False)
    _turns(baton, sizes, steps, lambda rows: float(compiled(tf.constant(rows))))


def estimate(baton: Baton, argv: list[str], sizes: Sizes, samples: int, compared: int) -> None:
    """The zoo's importance-sampled log p(x) of a batch of data, compiled as the evaluation does it.

    The value of a turn is the mean over the first `compared` data.
    """
    import tensorflow as tf

    model = build(argv, sizes)
    x = tf.constant(data(sizes)[: sizes.batch])
    compiled = tf.function(
        lambda x, number: model.importance_estimate(x, samples, tf.stack([0, number])).log_likelihood,
        jit_compile=model.xla_pays, autograph=False,
    )  # fmt: skip
    numbers = iter(range(1 << 30))
    _repeat(baton, sizes.batch, lambda: compiled(x, tf.constant(next(numbers))).numpy()[:compared].mean().item())


def published(baton: Baton, weights: str, sizes: Sizes, steps: int, updates: Optional[int]) -> None:
    """The published training step in PyTorch, from the weights in a file of `describe`; None updates: a VAE's."""
    import torch

    model, x = _published(weights, updates or 0)

    def run(rows):
        return [model.step(x[batch], vae=updates is None) for batch in torch.from_numpy(rows)][-1]

    _turns(baton, sizes, steps, run)


def published_estimate(baton: Baton, weights: str, sizes: Sizes, updates: int, samples: int) -> None:
    """The published importance-sampled log p(x) in PyTorch, an image at a time."""
    model, x = _published(weights, updates)
    _repeat(baton, sizes.batch, lambda: float(model.log_likelihood(x[: sizes.batch], samples).mean()))


def _published(weights: str, updates: int):
    import torch

    from benchmarks._rounds import cores
    from benchmarks._vlae_torch import Published

    torch.set_num_threads(cores())
    torch.manual_seed(0)
    with np.load(weights) as file:
        arrays = [file[f"array{i}"] for i in range(12)]
        return Published(arrays, float(file["log_variance"]), updates), torch.from_numpy(file["x"])


def _turns(baton: Baton, sizes: Sizes, steps: int, run: Callable[[np.ndarray], float]) -> None:
    generator = np.random.default_rng(0)
    _repeat(baton, steps, lambda: run(generator.integers(0, NUM_ROWS, (steps, sizes.batch))))


def _repeat(baton: Baton, count: int, run: Callable[[], float]) -> None:
    """Takes turns of `count` pieces of work; run() returns a value that must be finite.

    `memory_mib` is the most that the process has held above what it held before its first run.
    """
    memory, warm = Memory(), False
    while True:
        baton.start()
        value = run()
        if not math.isfinite(value):
            raise RuntimeError(f"the value of a turn is {value}; there is nothing to compare.")
        if not warm:  # the turn that is not counted: PyTorch makes some things at its second step
            run()
            warm = True
        baton.stop(count, value=value, memory_mib=memory.peak())


# ---- what is known before any turn ------------------------------------------------------------------------


def describe(variants: list[list[str]], sizes: Sizes, weights: str) -> list[dict[str, float]]:
    """Returns the operations of a step of each variant, given by its flags, and writes the weights to start from."""
    import tensorflow as tf

    write_start(variants[0], sizes, weights)
    x = tf.zeros([sizes.batch, sizes.data_dim])
    return [dataclasses.asdict(_hlo.count(functools.partial(_update, build(argv, sizes)), x)) for argv in variants]


def _update(model, x):
    return model.update(x)


def write_start(argv: list[str], sizes: Sizes, weights: str) -> None:
    """Writes what the published algorithm starts from when the zoo's model has these flags."""
    write_weights(weights, build(argv, sizes), data(sizes))


def write_weights(path: str, model, x: np.ndarray) -> None:
    """Writes what `_vlae_torch.Published` starts from: the network's arrays, log variance, preprocessed data."""
    dense = [layer for part in (model.encoder, model.decoder) for layer in part.layers if layer.weights]
    arrays: dict[str, Any] = {
        f"array{i}": w.numpy() for i, w in enumerate(w for layer in dense for w in (layer.kernel, layer.bias))
    }
    y = model.preprocess(x)[0].numpy()
    np.savez(path, **arrays, log_variance=model.likelihood.log_variance.numpy(), x=y.reshape(len(y), -1))


def describe_published(weights: str, sizes: Sizes, updates: Optional[int]) -> dict[str, float]:
    """Returns the operations of the products in a published step, counted by PyTorch as it runs them."""
    from torch.utils.flop_counter import FlopCounterMode

    model, x = _published(weights, updates or 0)
    with FlopCounterMode(display=False) as counter:
        model.step(x[: sizes.batch], vae=updates is None)
    return dataclasses.asdict(_hlo.Operations(products=counter.get_total_flops()))
