"""What TensorBoard is shown while a model trains: the original codes' names, and pictures of a few validation data."""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds, trainable
from pae_zoo.core.errors import UserError
from pae_zoo.experiment.workdir import Run

if TYPE_CHECKING:
    from pae_zoo.models.base import Autoencoder

#: data in a picture, and draws behind a standard deviation
NUM_PICTURES, NUM_DRAWS = 8, 8
PICTURES = "experiment/pictures"


class UpstreamTags(keras.callbacks.Callback):
    """Writes the newest line of the history to TensorBoard under the original codes' names, `model.upstream_tags`."""

    def __init__(self, run: Run, lines: list[dict[str, Any]]):
        super().__init__()
        self.lines = lines
        self.writer = tf.summary.create_file_writer(str(run.tensorboard / "upstream"))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        line, trained = self.lines[-1], _trained(self)
        with self.writer.as_default(step=line["step"]):
            for key, tags in trained.upstream_tags.items():
                for tag in (tags if isinstance(tags, tuple) else (tags,)) if key in line else ():
                    tf.summary.scalar(tag, line[key])

    def close(self) -> None:
        self.writer.close()


def write_scalars(run: Run, step: int, values: dict[str, float]) -> None:
    """Writes values to TensorBoard, beside those of `UpstreamTags`."""
    with tf.summary.create_file_writer(str(run.tensorboard / "upstream")).as_default(step=step):
        for tag, value in values.items():
            tf.summary.scalar(tag, value)


def check_pictures(every: int, event_shape: tuple[int, ...]) -> None:
    """Raises UserError where pictures are asked for, and data are none."""
    if every and (len(event_shape) != 3 or event_shape[-1] not in (1, 3)):
        raise UserError(f"--picture_epochs={every} shows images, grey or in colour; the data have shape "
                        f"{tuple(event_shape)}. Leave it out.")


class Pictures(keras.callbacks.Callback):
    """Shows the first validation data, their reconstructions and standard deviations, and samples every n epochs.

    Tags: pictures/data, /reconstruction, /std (white is the largest, which /std_max tells) and /samples; what a model
    does not have while it trains is left out. Weights are the averaged ones where there are averages. Nothing of the
    training changes: all noise is of seeds of its own, the same in every epoch.
    """

    def __init__(self, run: Run, valid: np.ndarray, every: int, samples: bool = True):
        super().__init__()
        self.x, self.every, self.samples = trainable.to_float(valid[:NUM_PICTURES]), every, samples
        self.writer = tf.summary.create_file_writer(str(run.tensorboard / "pictures"))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        trained = _trained(self)
        if (epoch + 1) % self.every:
            return
        with trained.averages.inside():
            found = pictures(trained, self.x, self.samples)
        with self.writer.as_default(step=int(np.asarray(trained.step))):
            if "std" in found:
                largest = float(np.max(found["std"]))
                tf.summary.scalar("pictures/std_max", largest)
                found["std"] = found["std"] / max(largest, np.finfo(np.float32).tiny)
            for name, images in found.items():
                tf.summary.image(f"pictures/{name}", np.clip(images, 0.0, 1.0), max_outputs=NUM_PICTURES)

    def close(self) -> None:
        self.writer.close()


def pictures(model: "Autoencoder", x: tf.Tensor, samples: bool = True) -> dict[str, np.ndarray]:
    """Returns what `Pictures` shows of data x (n, H, W, C): arrays of that shape, the std in the space of networks."""
    seed = seeds.stream((model.seed & 0x7FFFFFFF, 0), PICTURES)
    found = {"data": x, "reconstruction": model(x)}
    if "predictive" in model.offers and model.predicts_in_training:
        moments = model.predictive(x, NUM_DRAWS, seed)
        found["std"] = tf.sqrt(moments["aleatoric_variance"] + moments["epistemic_variance"])
    if samples and "sample" in model.offers:
        found["samples"] = model.sample(len(x), seed)
    return {name: np.asarray(keras.ops.convert_to_numpy(one), np.float32) for name, one in found.items()}


def _trained(callback: keras.callbacks.Callback) -> Any:
    return callback.model
