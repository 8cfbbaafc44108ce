"""The codes of test data as a picture in two dimensions, with how uncertain each is."""

import dataclasses
import importlib
import importlib.util
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import Context, Projection
from pae_zoo.plotting import figures

SHOWN_POINTS, SHOWN_ELLIPSES = 2000, 40
PCA, UMAP = "pca", "umap"


@dataclasses.dataclass(frozen=True)
class MapFlags:
    """The flags of the picture of the codes."""

    latent_map: str = option(
        PCA, "Axes of the figure latent_map for more than two latents: principal components, or 'umap' (needs the "
        "package umap-learn).", choices=(PCA, UMAP), group=EVALUATION)

    def check(self) -> None:
        """Raises UserError where UMAP is asked for and not installed."""
        if self.latent_map == UMAP and importlib.util.find_spec("umap") is None:
            raise UserError("--latent_map=umap needs umap-learn, which is not installed: pip install 'pae_zoo[umap]', "
                            "or take --latent_map=pca.")


def draw(context: Context, codes: np.ndarray, variances: np.ndarray) -> Iterator[tuple[str, float]]:
    """Saves the figure latent_map of codes (n, K) with posterior variances (n, K), coloured by label.

    Up to 40 of them get the ellipse of one standard deviation, of q(z|x) or, where codes are certain for each network
    and networks are drawn, between networks.
    """
    test = context.dataset.test
    chosen = context.choose(len(codes), SHOWN_POINTS, "latent_map")
    labels = None if test.y is None else test.y[chosen]
    if labels is not None and context.dataset.label_names:
        labels = np.asarray(context.dataset.label_names)[labels]
    title = f"{context.dataset.name}: codes of {len(chosen):,} test data"
    title += "" if labels is None or codes.shape[1] == 1 else ", by class"
    project = Projection(codes)
    if codes.shape[1] == 1:
        context.figure("latent_map", project.draw({"codes": codes[chosen]}, title))
        return
    if context.hparams.latent_map == UMAP and codes.shape[1] > 2:
        places = umap(codes[chosen], context.seed)
        context.figure("latent_map", figures.latent_map(places, labels, title, ("UMAP 1", "UMAP 2")))
        return
    some = np.linspace(0, len(chosen) - 1, min(len(chosen), SHOWN_ELLIPSES)).astype(int)
    spread = spreads(context, variances, chosen[some])
    ellipses = None
    if spread is not None:
        covariances = np.einsum("nk,ka,kb->nab", spread, project.axes, project.axes)
        ellipses = (some, covariances)
        title += f"\nellipses: one std of the code, of {len(some)} data"
    context.figure("latent_map", figures.latent_map(project(codes[chosen]), labels, title, project.labels, ellipses))
    if project.shares is not None:
        yield "generation/latent_map_variance", project.shares.sum()


def spreads(context: Context, variances: np.ndarray, rows: np.ndarray) -> Optional[np.ndarray]:
    """Returns variances (len(rows), K) of the codes of these test data; None where every code is certain."""
    if variances.any():
        return np.asarray(variances[rows], np.float64)
    if not getattr(context.model, "draws_are_shared", False):
        return None
    num = context.num_networks

    def variance(x, seed):
        return tf.math.reduce_variance(context.model.draw_codes(x, num, seed), axis=0)

    return context.map_batches(variance, context.dataset.test.x[rows], "ellipses").astype(np.float64)


def umap(codes: np.ndarray, seed: int) -> np.ndarray:
    """Returns places (n, 2) of codes (n, K) by UMAP (McInnes et al., arXiv 1802.03426), with its default settings."""
    umap_learn: Any = importlib.import_module("umap")
    neighbours = min(15, len(codes) - 1)
    model = umap_learn.UMAP(n_neighbors=neighbours, random_state=seed & 0x7FFFFFFF, n_jobs=1)
    return np.asarray(model.fit_transform(codes), np.float64)
