"""Uncertainty over a plane of latents, with the codes on top."""


import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.evaluation.context import Context, Projection
from pae_zoo.evaluation.metrics.calibration import spearman
from pae_zoo.evaluation.support.latent_planes import points
from pae_zoo.evaluation.support.published_scores import decodes_variance
from pae_zoo.evaluation.tasks import ood
from pae_zoo.plotting import uncertainty
from pae_zoo.plotting.uncertainty import Plane

check_data = ood.check_data
SIDE, TABLE_SIDE = 50, 10
MARGIN = 0.3
SHOWN_CODES = 2000


@dataclasses.dataclass(frozen=True)
class Flags(ood.SetFlags):
    """The flags of the task latent_grid."""


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Std of the decoder's output over a grid of latents, and how it goes with the distance to the codes.

    The grid covers the range of test codes and 30 % of it on either side; its values are the mean over pixels of the
    std of `decode_grid` or, where one decoder gives a variance for each value, of the std that it gives. With more than
    two latents it lies in the plane of the first two principal components of the codes. Needs a model that draws
    decoders, or one with the likelihood gaussian_decoder, and at least two latents.
    """
    _Grid.of(context).check()
    codes = context.test_codes[0]
    if codes.shape[1] < 2:
        raise NotImplementedError("A plane of latents needs at least two of them; this model has one.")
    project = Projection(codes)
    shown = context.choose(len(codes), SHOWN_CODES, "latent_grid")
    x, y = (margins(values) for values in project(codes).T)
    fine = points(*(np.linspace(*ends, SIDE) for ends in (x, y)))
    mean_std = stds(context, fine @ project.axes.T + project.mean)
    at_codes = stds(context, codes[shown])
    yield "latent_grid/std_min", mean_std.min()
    yield "latent_grid/std_mean", mean_std.mean()
    yield "latent_grid/std_max", mean_std.max()
    yield "latent_grid/std_at_codes", at_codes.mean()
    distances = nearest(fine, project(codes))
    yield "latent_grid/distance_spearman", spearman(mean_std, distances)
    if project.shares is not None:
        yield "latent_grid/plane_variance", project.shares.sum()
    others = {}
    for name, values in _other_codes(context).items():
        yield f"latent_grid/{name}/std_at_codes", stds(context, values).mean()
        others[f"codes of {name}"] = project(values)
    table = {"x": fine[:, 0], "y": fine[:, 1], "std": mean_std, "distance": distances}
    context.table("latent_grid.csv", table)
    _draw(context, project, Plane((*x, *y), mean_std.reshape(SIDE, SIDE)), codes, shown, others)


def margins(values: np.ndarray) -> tuple[float, float]:
    """Returns the range of values (n,), wider by 30 % of it on either side."""
    low, high = float(values.min()), float(values.max())
    margin = MARGIN * max(high - low, 1e-6)
    return low - margin, high + margin


def nearest(queries: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Returns the distances (m,) of points (m, d) to the nearest of the codes (n, d)."""
    from scipy.spatial import KDTree

    return KDTree(codes).query(queries)[0]


def stds(context: Context, z: np.ndarray) -> np.ndarray:
    """Returns the mean over pixels of the decoder's std at latents z (n, K), (n,), in the units of y."""
    return context.map_batches(_Grid.of(context).std, z.astype(np.float32), "latent grid").astype(np.float64)


class _Grid:
    """Two functions of one batch of latents, kept so that each is compiled once.

    `decoded` is whether the std is that which the decoder gives, as one decoder does that is not drawn.
    """

    def __init__(self, model: Any, num_samples: int):
        self.model, self.num_samples, self.decoded = model, num_samples, False

    def check(self) -> None:
        """Finds out whose std there is; raises NotImplementedError for a model without any."""
        try:
            self._drawn(tf.zeros((1, self.model.latent_dim)), (0, 0), 1)
        except NotImplementedError:
            if not decodes_variance(self.model):
                raise
            self.decoded = True

    @classmethod
    def of(cls, context: Context) -> "_Grid":
        return context.once("latent_grid", lambda: cls(context.model, int(context.hparams.test_samples)))

    def std(self, z: tf.Tensor, seed: seeds.Seed) -> tf.Tensor:
        found = self._moments(z, seed)[1]
        return tf.reduce_mean(found, axis=list(range(1, found.shape.rank)))

    def picture(self, z: tf.Tensor, seed: seeds.Seed) -> tf.Tensor:
        return self.model.to_data(self._moments(z, seed)[0])

    def _moments(self, z: tf.Tensor, seed: seeds.Seed) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and std of y at latents z (n, K), each (n, *event)."""
        if not self.decoded:
            return self._drawn(z, seed, self.num_samples)
        outputs = self.model.decoder_outputs(z)
        return self.model.likelihood.mean(outputs), tf.sqrt(self.model.likelihood.variance(outputs))

    def _drawn(self, z: tf.Tensor, seed: seeds.Seed, num_samples: int) -> tuple[tf.Tensor, tf.Tensor]:
        return self.model.decode_grid(z, num_samples, seed)


def _other_codes(context: Context) -> dict[str, np.ndarray]:
    """Returns {slug: codes (n, K)} of the sets that --ood_datasets names; none without it."""
    if not context.hparams.ood_datasets:
        return {}
    found = {}
    for name, (x, _) in ood.load_sets(context).items():
        chosen = context.choose(len(x), SHOWN_CODES, "latent_grid")
        found[name] = context.encode(x[chosen], f"codes of {name}")[0]
    return found


def _draw(context: Context, project: Projection, plane: Plane, codes, shown, others) -> None:
    x, y = plane.extent[:2], plane.extent[2:]
    pictures = None
    if context.is_image:
        # Cell centres, the top row first, so that the table covers the same plane as the map.
        centres = [low + (np.arange(TABLE_SIDE) + 0.5) / TABLE_SIDE * (high - low) for low, high in (x, y)]
        z = points(centres[0], centres[1][::-1]) @ project.axes.T + project.mean
        decoded = context.map_batches(_Grid.of(context).picture, z.astype(np.float32), "latent grid")
        pictures = decoded.reshape(TABLE_SIDE, TABLE_SIDE, *decoded.shape[1:])
        context.board.images("latent_grid_means", pictures)
    labels = None if context.dataset.test.y is None else context.dataset.test.y[shown]
    if labels is not None and context.dataset.label_names:
        labels = np.asarray(context.dataset.label_names)[labels]
    whose = "std that the decoder gives" if _Grid.of(context).decoded else "std of the decoder's output"
    title = f"{context.dataset.name}: {whose}, mean over pixels"
    if project.shares is not None:
        title += "\nin the plane of the first two principal components of the codes, through their mean"
    outside = {name: values for name, values in others.items()}
    figure = uncertainty.latent_plane(
        plane, project(codes[shown]), labels, outside, pictures, title, project.labels, "units of y")
    context.board.figure("latent_uncertainty", figure)
    context.figure("latent_uncertainty", figure)
