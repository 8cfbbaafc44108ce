"""What takes turns in `benchmark.py train`: each function runs in a process of its own."""

import math
import os
import tempfile
import time

import numpy as np

from benchmarks._network import Network
from benchmarks._rounds import Baton


def fit(baton: Baton, argv: list[str]) -> None:
    """The launcher's own path: `session.prepare` and `training.train`, an epoch per turn.

    Validation is not counted, since nobody else validates; everything else is: order of the data, callbacks,
    progress bar, TensorBoard, checkpoints.
    """
    from pae_zoo.experiment import fitting

    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        session = make_session([*argv, f"--workdir={folder}/run"])
        session.model.adapt(session.dataset.train.x)
        session.run.write_config(session.hparams)
        _watch(session.model, baton, session.feed.steps_per_epoch)
        fitting.train(session.model, session.feed, session.hparams, session.run)


def first_step(argv: list[str]) -> None:
    """Ends the process, status 0, as soon as the launcher's path has taken its first training step."""
    import keras

    from pae_zoo.experiment import fitting

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            os._exit(0)

    session = make_session([*argv, "--steps_per_call=1"])
    session.model.adapt(session.dataset.train.x)
    _add_callbacks(session.model, [], [Stop()])
    fitting.train(session.model, session.feed, session.hparams, session.run)


def arrays(baton: Baton, argv: list[str], steps: int) -> None:
    """The same model, plain `model.fit(array)` of `steps` batches without launcher."""
    session = make_session([*argv, "--workdir=unused"])
    batch_size = session.feed.batch_size
    x = session.dataset.train.x[: steps * batch_size].astype(np.float32) / 255.0
    session.model.compile(optimizer="adam", jit_compile=True)

    def epoch() -> int:
        session.model.fit(x, batch_size=batch_size, verbose=0)
        return steps

    baton.repeat(epoch)


def hand(baton: Baton, network: Network, data: str, batch_size: int, steps: int, **options: bool) -> None:
    """One program per epoch without Keras; see `_loops.HandLoop`."""
    from benchmarks._loops import HandLoop

    x = np.load(data)
    _loop(baton, HandLoop(network, x, **options), len(x), batch_size, steps)


def torch(baton: Baton, network: Network, data: str, batch_size: int, steps: int, **adam) -> None:
    """PyTorch on the same network; see `_loops.TorchLoop`."""
    from benchmarks._loops import TorchLoop

    x = np.load(data)
    _loop(baton, TorchLoop(network, x, **adam), len(x), batch_size, steps)


def _loop(baton: Baton, loop, num: int, batch_size: int, steps: int) -> None:
    generator = np.random.default_rng(0)

    def epoch() -> int:
        rows = generator.permutation(num)[: steps * batch_size].reshape(steps, batch_size)
        loss = loop(rows)
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss of the loop is {loss}; there is nothing to compare.")
        return steps

    baton.repeat(epoch)


def products(baton: Baton, shapes: list[tuple[int, int, int]], repeats: int) -> None:
    """TensorFlow's matrix products alone: (rows, inner, columns) each; one "step" is all of them once."""
    import tensorflow as tf

    generator = np.random.default_rng(0)
    pairs = [
        tuple(tf.constant(generator.normal(size=shape).astype(np.float32)) for shape in ((a, b), (b, c)))
        for a, b, c in shapes
    ]
    step = tf.function(lambda: [tf.matmul(left, right) for left, right in pairs])

    def turn() -> int:
        for _ in range(repeats):
            step()
        return repeats

    baton.repeat(turn)


def step_shapes(network: Network, batch_size: int) -> list[tuple[int, int, int]]:
    """Returns the shapes of a dense network's products in one training step."""
    found = []
    for number, layer in enumerate(network.products):
        inputs, outputs = layer.arrays[0].shape
        found += [(batch_size, inputs, outputs), (inputs, batch_size, outputs)]
        found += [(batch_size, outputs, inputs)] if number else []
    return found


def make_session(argv: list[str]):
    """Returns the launcher's session for its flags."""
    from pae_zoo import models
    from pae_zoo.experiment import launch
    from pae_zoo.experiment.session import prepare

    module = models.find(launch.value_of(argv, "model", "vae"))
    hparams, _ = launch.parse_model(module, argv)
    return prepare(hparams, module)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _watch(model, baton: Baton, steps: int) -> None:
    """Puts two callbacks around the launcher's own: an epoch is a turn, and compiled calls are timed."""
    import keras

    class First(keras.callbacks.Callback):
        """Called before the launcher's callbacks."""

        def on_train_batch_end(self, batch, logs=None):
            last.in_calls = [
                total + now - then for total, now, then in zip(last.in_calls, _clocks(), last.called)
            ]

        def on_test_begin(self, logs=None):
            self.test = _clocks()

    class Last(keras.callbacks.Callback):
        """Called after the launcher's callbacks."""

        def on_epoch_begin(self, epoch, logs=None):
            baton.start()
            self.in_calls, self.calls = (0.0, 0.0), 0

        def on_train_batch_begin(self, batch, logs=None):
            self.calls += 1
            self.called = _clocks()

        def on_test_end(self, logs=None):
            self.validation = [now - then for now, then in zip(_clocks(), first.test)]

        def on_epoch_end(self, epoch, logs=None):
            baton.stop(
                steps,
                less=tuple(self.validation),
                validation_ms=1e3 * self.validation[0] / steps,
                calls_ms=1e3 * self.in_calls[0] / steps,
                calls_cpu_ms=1e3 * self.in_calls[1] / steps,
                steps_per_call=steps / self.calls,
            )

    first, last = First(), Last()
    _add_callbacks(model, [first], [last])


def _add_callbacks(model, before: list, after: list) -> None:
    """Makes `model.fit` call these before and after the callbacks that it is given."""
    fit = model.fit
    model.fit = lambda *args, callbacks=(), **kwargs: fit(
        *args, callbacks=[*before, *callbacks, *after], **kwargs
    )
