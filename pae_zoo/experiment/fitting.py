"""Trains a model in a work directory: Keras' `fit` on compiled blocks of steps, resumable at every block."""

import dataclasses
import math
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Optional

import keras
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from pae_zoo.core import optimizers, replicas, stepping
from pae_zoo.core.errors import UserError
from pae_zoo.data.pipelines import Feed
from pae_zoo.experiment import checkpoint, cluster, watching
from pae_zoo.experiment.checkpoint import Position
from pae_zoo.experiment.workdir import Run

if TYPE_CHECKING:
    from pae_zoo.models.base import Autoencoder

# One call of the compiled step should not keep a signal or the progress bar waiting longer than this.
SECONDS_PER_CALL = 2.0
MOST_STEPS_PER_CALL = 128
# How far the training loss may rise above its lowest, in units of that (or of one nat for each value of a datum): the
# mean over an epoch, and that of an epoch's first steps, which a few bad batches may move.
EPOCH_RISE, STEPS_RISE = 100.0, 1000.0


class Interrupted(Exception):
    """A signal ended the training after a checkpoint; `signum` tells which."""

    def __init__(self, signum: int, steps: int):
        super().__init__(f"stopped by {signal.Signals(signum).name} after step {steps}; a checkpoint was written")
        self.signum = signum


class NotFinite(UserError):
    """The loss became NaN or infinite."""


class Diverged(UserError):
    """The loss rose by orders of magnitude."""


def total_steps(hparams: Any, steps_per_epoch: int) -> int:
    """Returns the number of training steps that the flags ask for."""
    return hparams.max_steps or hparams.epochs * steps_per_epoch


def make_optimizer(hparams: Any, steps: int) -> keras.optimizers.Optimizer:
    """Returns the Keras optimizer that the flags describe, for a training of `steps` steps."""
    return optimizers.of_flags(hparams, steps)


def steps_per_call(model: "Autoencoder", x: np.ndarray) -> int:
    """Returns how many steps one compiled call should take, from the time of a few forward passes on x."""
    # A pass over one datum costs what starting its operations one by one costs, which a compiled step saves.
    full, one = _pass_seconds(model, _floats(x)), _pass_seconds(model, _floats(x[:1]))
    # Forward and backward cost about three forward passes.
    return int(np.clip(SECONDS_PER_CALL / (3 * max(full - one, full / 20)), 1, MOST_STEPS_PER_CALL))


def _pass_seconds(model, batch: tf.Tensor) -> float:
    """Returns the seconds of a forward pass: the shortest of a few, since the first makes kernels."""
    seconds: list[float] = []
    while len(seconds) < 4 and sum(seconds) < SECONDS_PER_CALL:
        start = time.perf_counter()
        model.objective(batch, (0, 0), training=False)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _floats(x: np.ndarray) -> tf.Tensor:
    return tf.convert_to_tensor(x.astype(np.float32) / 255.0 if x.dtype == np.uint8 else x)


def uses_xla(model: "Autoencoder", hparams: Any, steps: Optional[int] = None) -> bool:
    """Whether the training step is compiled with XLA: as --jit_compile says, where it pays, and none are shared.

    On a CPU it does not pay for few `steps` (None: for many).
    """
    if not (hparams.jit_compile and model.xla_pays and model.strategy is None):
        return False
    numbers = hparams.batch_size * math.prod(model.event_shape)
    return steps is None or stepping.on_gpu() or model.xla_saves(steps, numbers)


def _history(run: Run, position: Position) -> list[dict]:
    """Returns the lines of the epochs up to `position`, and tells where the first lack; raises UserError for a gap."""
    lines = [line for line in run.read_history() if line["epoch"] <= position.epoch]
    path, epochs = run.workdir / run.history_path, [line["epoch"] for line in lines]
    first = epochs[0] if epochs else position.epoch + 1
    cut = epochs != list(range(first, position.epoch + 1)) or not epochs and position.epoch > 0 and path.exists()
    if cut:
        raise UserError(f"{path} does not end with epoch {position.epoch}, where the checkpoint stands: it is cut. "
                        "Restore it, or delete it to go on without the record of the epochs so far.")
    if first > 1:
        print(f"{run.label}{path} has no record of the epochs up to {first - 1}: the history starts at epoch {first}",
              file=sys.stderr, flush=True)
    return lines


def _best(run: Run, model, position: Position) -> Optional[tuple[list[np.ndarray], dict]]:
    """Returns the weights best on validation so far, None if none were judged; raises UserError where they are lost."""
    if position.best_value is None:
        return None
    found, path = run.load_arrays("best"), run.workdir / run.arrays_path("best")
    if found is None:
        raise UserError(f"{path} does not exist, but the checkpoint says that epoch {position.best_epoch} was best. "
                        "Restore the file, or delete the work directory to start anew.")
    checkpoint.check(checkpoint.state(model), found[0], path)
    return found


class _Callback(keras.callbacks.Callback):
    """A callback whose model is known, as it is from the beginning of a training on."""

    @property
    def trained(self) -> Any:
        """The model that Keras trains."""
        return self.model


class Keeper(_Callback):
    """Keeps the run: history, best weights, checkpoints, early stopping, signals, losses that are not finite."""

    def __init__(self, run: Run, feed: Feed, model, position: Position, hparams):
        super().__init__()
        self.run, self.feed, self.position, self.hparams = run, feed, position, hparams
        self.steps = total_steps(hparams, feed.steps_per_epoch)
        self.history_lines = _history(run, position)
        self.best: Optional[tuple[list[np.ndarray], dict]] = _best(run, model, position)
        self.best_written = True
        self.signum: Optional[int] = None
        self.pending_metrics: Optional[list[np.ndarray]] = None
        self.saved_at = time.monotonic()
        self.resumed_at = time.monotonic()
        self.resumed_seconds = position.seconds
        self.epoch = position.epoch
        judged = [line["train/loss"] for line in self.history_lines if line["step"] > model.schedule_steps]
        self.first_loss, self.lowest_loss = (judged[0], min(judged)) if judged else (math.inf, math.inf)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epoch = epoch
        if self.pending_metrics is not None:  # a resumed epoch goes on with the means it had
            checkpoint.assign(self._metric_variables(), self.pending_metrics, self.run.arrays_path("last"))
            self.pending_metrics = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        steps = int(replicas.value(self.trained.step))
        loss = float(logs["loss"])
        if not np.isfinite(loss):
            raise NotFinite(self._not_finite(steps))
        self._watch(loss, steps, STEPS_RISE)
        self.position.step_in_epoch += steps - self.position.steps
        self.position.steps = steps
        if self.position.step_in_epoch < self.feed.steps_per_epoch and steps < self.steps:
            self._pause()  # the end of an epoch has its own pause, after validation

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        position = self.position
        position.epoch, position.step_in_epoch = epoch + 1, 0
        position.seconds = self.resumed_seconds + time.monotonic() - self.resumed_at
        self._watch(float(logs["loss"]), position.steps, EPOCH_RISE)
        line: dict[str, float] = {"epoch": epoch + 1, "step": position.steps}
        line.update({f"train/{k}": float(v) for k, v in logs.items() if not k.startswith("val_")})
        line.update({f"valid/{k[4:]}": float(v) for k, v in logs.items() if k.startswith("val_")})
        line["learning_rate"] = float(np.asarray(self.trained.optimizer.learning_rate))
        line["seconds"] = round(position.seconds, 3)
        self.history_lines.append(line)
        self._judge(line["valid/loss"])
        self._lower_rate(line["valid/loss"])
        if self.hparams.keep_checkpoints:
            arrays = checkpoint.arrays_of(checkpoint.state(self.trained))
            self.run.keep_epoch(position.epoch, arrays, self.hparams.keep_checkpoints)
        if position.steps < self.steps:
            self._pause()

    def _watch(self, loss: float, steps: int, allowed: float) -> None:
        """Raises Diverged for a mean loss of the epoch so far that is above the first, and far above the lowest."""
        if steps <= self.trained.schedule_steps:  # the objective itself still changes
            return
        if not math.isfinite(self.first_loss):
            self.first_loss = loss
        self.lowest_loss = min(self.lowest_loss, loss)
        unit = max(abs(self.lowest_loss), math.prod(self.trained.event_shape))
        if loss > max(self.first_loss, self.lowest_loss + allowed * unit):
            raise Diverged(
                f"{self.run.label}the training diverges: the loss is {loss:.4g} at step {steps} (epoch "
                f"{self.epoch + 1}) and was {self.lowest_loss:.4g}; {self._kept()}. Lower --learning_rate, set "
                "--clip_norm, or take other options of the model; use a new --workdir.")

    def _pause(self) -> None:
        """Writes a checkpoint when one is due, and ends the training when a signal has asked for it."""
        if self.signum is not None or time.monotonic() - self.saved_at >= self.hparams.checkpoint_seconds:
            self.write()
        if self.signum is not None:
            raise Interrupted(self.signum, self.position.steps)

    def _judge(self, loss: float) -> None:
        """Keeps the best weights and counts the epochs without a better validation loss."""
        position = self.position
        if position.steps < self.trained.schedule_steps:  # the objective itself still changes
            return
        if position.best_value is None or loss < position.best_value:
            position.best_value, position.best_epoch, position.wait = loss, position.epoch, 0
            self.best = (checkpoint.arrays_of(checkpoint.state(self.trained)), {"epoch": position.epoch})
            self.best_written = False
            return
        position.wait += 1
        if self.hparams.patience and position.wait >= self.hparams.patience:
            position.stopped_early = True
            self.trained.stop_training = True

    def _lower_rate(self, loss: float) -> None:
        """Multiplies the learning rate by --lr_factor after more than --lr_patience epochs without a better loss."""
        position = self.position
        if self.hparams.lr_schedule != optimizers.PLATEAU or position.steps < self.trained.schedule_steps:
            return
        best = position.lr_best
        if best is None or loss < best - optimizers.BETTER * abs(best):
            position.lr_best, position.lr_wait = loss, 0
            return
        position.lr_wait += 1
        if position.lr_wait > self.hparams.lr_patience:
            optimizer, position.lr_wait = self.trained.optimizer, 0
            optimizer.learning_rate = float(np.asarray(optimizer.learning_rate)) * self.hparams.lr_factor

    def write(self) -> None:
        """Writes best weights, history and checkpoint, in the order in which a crash in between is harmless."""
        if self.best is not None and not self.best_written:
            arrays, note = self.best
            self.run.save_arrays("best", arrays, note)
            self.best_written = True
        self.run.write_history(self.history_lines)
        self.position.seconds = self.resumed_seconds + time.monotonic() - self.resumed_at
        checkpoint.save(self.run, self.trained, self.position)
        self.saved_at = time.monotonic()

    def without_others(self) -> str:
        """Writes what there is when another process has gone, and returns what to tell of it."""
        steps = int(replicas.value(self.trained.step))
        place = self.position.step_in_epoch + steps - self.position.steps
        if place < self.feed.steps_per_epoch:  # a whole epoch waits for its validation, which needs the others
            self.position.step_in_epoch, self.position.steps = place, steps
            self.write()
        kept = self._kept() if cluster.task_of(self.hparams.strategy).is_chief else "process 0 keeps what there is"
        return (f"{self.run.label}a process of the cluster was lost after step {steps}; {kept}. Start the same command "
                "in all processes to go on.")

    def restore_best(self) -> None:
        """Loads the weights that were best on validation into the model; keeps the last ones if none were."""
        if self.best is not None and self.position.best_value is not None:
            checkpoint.assign(checkpoint.state(self.trained), self.best[0], self.run.arrays_path("best"))

    def _metric_variables(self):
        return [v for metric in self.trained.metrics for v in metric.variables]

    def resume_metrics(self) -> None:
        """Remembers the metrics of a half-finished epoch, which Keras resets when the epoch begins."""
        if self.position.step_in_epoch:
            self.pending_metrics = checkpoint.arrays_of(self._metric_variables())

    def _not_finite(self, steps: int) -> str:
        in_epoch = self.position.step_in_epoch + steps - self.position.steps
        rows = self.feed.order(self.epoch)[in_epoch - 1]
        x = self.feed.train[rows].astype(np.float64)
        return (
            f"{self.run.label}the loss is not finite at step {steps} (epoch {self.epoch + 1}, batch {in_epoch}); that "
            f"batch has min {x.min():.4g}, max {x.max():.4g}, mean {x.mean():.4g}, std {x.std():.4g}; "
            f"{self._kept()}. Lower --learning_rate, set --clip_norm, or look at the data; use a new --workdir."
        )

    def _kept(self) -> str:
        """Returns which checkpoint there is, for errors."""
        kept = self.run.workdir / self.run.arrays_path("last")
        return f"the last checkpoint is {kept}" if kept.exists() else "no checkpoint had been written yet"


class Progress(_Callback):
    """One progress bar over the whole training, with time left; without a terminal, a line per epoch."""

    def __init__(self, steps: int, position: Position, epochs: int, label: str = ""):
        super().__init__()
        self.steps, self.position, self.epochs = steps, position, epochs
        self.label = label
        self.terminal = sys.stderr.isatty()
        self.bar = tqdm(total=steps, initial=position.steps, unit="step", disable=not self.terminal,
                        dynamic_ncols=True, desc=f"{self.label}training")
        self.printed = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.bar.update(self.position.steps - self.bar.n)
        self.bar.set_postfix_str(f"loss {float(logs['loss']):.4g}", refresh=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        text = f"loss {float(logs['loss']):.5g}, valid {float(logs['val_loss']):.5g}"
        epoch_text = f"{self.label}epoch {epoch + 1}/{self.epochs}"
        self.bar.set_description_str(f"{epoch_text}, valid {float(logs['val_loss']):.5g}")
        last = epoch + 1 == self.epochs or self.trained.stop_training
        if not self.terminal and (last or time.monotonic() - self.printed > 10):
            print(f"{epoch_text}: {text}", flush=True)
            self.printed = time.monotonic()

    def close(self) -> None:
        self.bar.close()


def train(model: "Autoencoder", feed: Feed, hparams: Any, run: Run) -> Position:
    """Trains `model` until the flags are met, from the run's checkpoint if there is one.

    Leaves checkpoints/, metrics.jsonl and tensorboard/, and in the model the weights best on validation.
    Raises Interrupted after SIGINT or SIGTERM (a checkpoint is written), NotFinite for a NaN loss, Diverged for one
    that rises by orders of magnitude.
    """
    steps = total_steps(hparams, feed.steps_per_epoch)
    epochs = -(-steps // feed.steps_per_epoch)
    with model.scope():
        model.compile(optimizer=make_optimizer(hparams, steps), jit_compile=uses_xla(model, hparams, steps),
                      ema=hparams.ema, norms=hparams.log_norms)
    position = checkpoint.restore(run, model, feed.steps_per_epoch)
    keeper = Keeper(run, feed, model, position, hparams)
    keeper.set_model(model)
    keeper.resume_metrics()
    if not position.fresh:
        print(f"{run.label}resuming after epoch {position.epoch}, step {position.steps} of {steps}", flush=True)
    progress = Progress(steps, position, epochs, run.label)
    board = keras.callbacks.TensorBoard(str(run.tensorboard), write_graph=False)
    shown = [watching.UpstreamTags(run, keeper.history_lines), *_pictures(model, feed, hparams, run)]
    previous = _watch_signals(keeper)
    validation = feed.validation()
    try:
        with model.feeding(feed):
            while position.steps < steps and not position.stopped_early:
                span = _next_span(position, feed.steps_per_epoch, steps)
                model.fit(
                    feed.training(span.epoch, span.first_step, span.steps, span.epochs),
                    initial_epoch=span.epoch,
                    epochs=span.epoch + span.epochs,
                    steps_per_epoch=feed.num_blocks(span.steps),
                    validation_data=validation,
                    callbacks=[keeper, progress, board, *shown],
                    verbose=0,
                    shuffle=False,
                )
        keeper.write()
    except tf.errors.OpError as error:
        if not cluster.lost(error, model.strategy):
            raise
        raise cluster.WorkerLost(keeper.without_others()) from error
    finally:
        progress.close()
        for callback in shown:
            callback.close()
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    keeper.restore_best()
    model.averages.take()
    return dataclasses.replace(position)


def _pictures(model: "Autoencoder", feed: Feed, hparams: Any, run: Run) -> list[watching.Pictures]:
    """Returns what draws pictures, where they are asked for."""
    if not hparams.picture_epochs:
        return []
    # The density of a later stage is not trained yet.
    later = {id(stage.part) for stage in model.later_stages(hparams)}
    samples = id(getattr(model, "flow", None)) not in later
    return [watching.Pictures(run, feed.valid, hparams.picture_epochs, samples)]


@dataclasses.dataclass
class _Span:
    """Epochs that one call of `fit` covers: all of the same number of steps."""

    epoch: int
    epochs: int
    first_step: int
    steps: int


def _next_span(position: Position, per_epoch: int, total: int) -> _Span:
    if position.step_in_epoch:
        left = min(per_epoch - position.step_in_epoch, total - position.steps)
        return _Span(position.epoch, 1, position.step_in_epoch, left)
    whole = (total - position.steps) // per_epoch
    if whole:
        return _Span(position.epoch, whole, 0, per_epoch)
    return _Span(position.epoch, 1, 0, total - position.steps)


def _watch_signals(keeper: Keeper) -> dict:
    """Makes SIGINT and SIGTERM ask for a checkpoint; a second SIGINT acts at once. Returns the old handlers."""

    def handle(signum, frame):
        if keeper.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        keeper.signum = signum
        print("\nfinishing the step and writing a checkpoint ...", file=sys.stderr, flush=True)

    try:
        return {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are the caller's business
        return {}
