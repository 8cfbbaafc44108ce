"""What the model generates: samples and their quality, interpolations, a map of its latent space."""


import dataclasses
from collections.abc import Iterator
from typing import Any, Optional

import numpy as np

from pae_zoo.evaluation.context import Context, Projection, to_unit
from pae_zoo.evaluation.support import code_quality, latent_map, quality
from pae_zoo.plotting import figures, series

SHOWN_SAMPLES = 100
SHOWN_POINTS = 2000
NUM_STRIPS, NUM_FRAMES = 8, 9
GRID_SIDE = 20
PRIOR_DRAWS = 10_000
ACTIVE_VARIANCE = 0.01
SAMPLE_KEYS = (
    "generation/sample_mean", "generation/sample_std", "generation/prior_mean_abs", "generation/prior_std_mean",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Flags(latent_map.MapFlags, quality.FrechetFlags):
    """The flags of the task generation."""


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Sample grid and quality, interpolation strips, 2-D latent map, and how the codes fill the prior.

    Frechet distances, precision and recall are those of `pae_zoo.evaluation.support.quality`. Interpolations are linear
    in z between the codes of two test data, both ends included. A latent unit is active when the variance of its
    code over the test data exceeds 0.01 (Burda et al., arXiv 1509.00519).
    """
    yield from draw_samples(context)
    codes, variances = context.test_codes
    over_data = codes.var(axis=0, dtype=np.float64)
    yield "generation/latent_mean_abs", np.abs(codes.mean(axis=0, dtype=np.float64)).mean()
    yield "generation/latent_std_mean", np.sqrt(over_data + variances.mean(axis=0, dtype=np.float64)).mean()
    yield "generation/active_units", (over_data > ACTIVE_VARIANCE).sum()
    prior = draw_prior(context)
    if prior is not None:
        yield "generation/prior_mean_abs", np.abs(prior.mean(axis=0, dtype=np.float64)).mean()
        yield "generation/prior_std_mean", prior.std(axis=0, dtype=np.float64).mean()
        yield from code_quality.latent_quality(context, "generation", {"generation": prior})
    yield from latent_map.draw(context, codes, variances)
    if context.is_image:
        draw_interpolations(context, codes)
        if codes.shape[1] == 2:
            draw_latent_grid(context, codes if prior is None else prior, prior is not None)
    write_projector(context, codes)
    yield from quality.model_quality(context)


def draw_samples(context: Context) -> Iterator[tuple[str, Any]]:
    """Saves samples of the model: a grid of images or of windows, or a scatter over the data."""
    num = SHOWN_SAMPLES if context.is_image else SHOWN_POINTS
    try:
        samples = context.compile(lambda seed: context.model.sample(num, seed))(context.seed_for("samples"))
    except NotImplementedError as error:
        yield from context.unsupported(SAMPLE_KEYS, error)
        return
    samples = samples.numpy()
    if context.is_image:
        table = figures.square(samples)
        context.figure("samples", figures.image_table(table, f"{context.dataset.name}: samples of the model"))
        context.board.images("generated", table)
    elif context.is_series:
        title = f"{context.dataset.name}: samples of the model"
        context.figure("samples", series.panels({"samples": samples}, title, context.channel_names))
    else:
        test = context.dataset.test.x
        data = to_unit(test[context.choose(len(test), SHOWN_POINTS, "samples")])
        title = f"{context.dataset.name}: samples of the model over test data"
        groups = {"data": data, "samples": samples}
        context.figure("samples", Projection(data, "x").draw(groups, title))
    yield "generation/sample_mean", samples.mean(dtype=np.float64)
    yield "generation/sample_std", samples.std(dtype=np.float64)


def draw_prior(context: Context) -> Optional[np.ndarray]:
    """Returns draws (10,000, K) of the latents that the decoder takes when it samples; None without a prior."""
    draw = context.compile(lambda seed: context.model.sample_latent(PRIOR_DRAWS, seed))
    try:
        return draw(context.seed_for("prior")).numpy()
    except NotImplementedError:
        return None  # said already: a model without a prior has no samples either


def draw_interpolations(context: Context, codes: np.ndarray) -> None:
    """Saves strips of decoded points on straight lines between pairs of codes, of two classes if there are.

    Where the prior's variable u is not the latent z, the same pairs are joined by straight lines in u as well.
    """
    starts, ends = pairs(context, context.dataset.test.y, len(codes))
    first, last = codes[starts], codes[ends]
    draw_strips(context, "interpolations", "z", starts, ends, lines(first, last))
    model = context.model
    u = [context.map_batches(lambda z, seed: model.base_from_latent(z), z, "base") for z in (first, last)]
    if not np.array_equal(u[0], first):
        z = context.map_batches(lambda u, seed: model.latent_from_base(u), lines(*u), "latents")
        draw_strips(context, "interpolations_base", "u", starts, ends, z)


def lines(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Returns the points on straight lines between rows of two arrays (n, K), ends included: (n * frames, K)."""
    weights = np.linspace(0.0, 1.0, NUM_FRAMES, dtype=np.float32)[None, :, None]
    points = (1.0 - weights) * first[:, None] + weights * last[:, None]
    return points.reshape(-1, first.shape[1]).astype(np.float32)


def draw_strips(context: Context, name: str, space: str, starts: np.ndarray, ends: np.ndarray, z: np.ndarray) -> None:
    """Saves decoded latents z of `lines` between the data of two lists of indices, with the data at both sides."""
    test = context.dataset.test
    frames = context.decode(z)
    frames = frames.reshape(len(starts), NUM_FRAMES, *frames.shape[1:])
    table = np.concatenate(
        [to_unit(test.x[starts])[:, None], frames, to_unit(test.x[ends])[:, None]], axis=1
    )
    labels = ["datum A", *(f"{w:.3g}" for w in np.linspace(0.0, 1.0, NUM_FRAMES)), "datum B"]
    title = f"{context.dataset.name}: decoded (1 - w) {space}(A) + w {space}(B), with w above each column"
    context.figure(name, figures.image_table(table, title, column_labels=labels))


def pairs(context: Context, labels: Optional[np.ndarray], num_data: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns indices (starts, ends) of up to 8 pairs of data, of different classes where possible."""
    order = context.choose(num_data, 8 * NUM_STRIPS, "interpolations")
    order = np.random.default_rng(context.seed & 0xFFFFFFFF).permutation(order)
    starts = order[: min(NUM_STRIPS, -(-len(order) // 2))]
    rest = list(order[len(starts) :]) or list(starts)
    ends = []
    for start in starts[: len(rest)]:
        other = [i for i in rest if labels is None or labels[i] != labels[start]] or rest
        ends.append(other[0])
        rest.remove(other[0])
    return starts[: len(ends)], np.array(ends)


def draw_latent_grid(context: Context, latents: np.ndarray, from_prior: bool) -> None:
    """Saves what a two-dimensional latent space decodes to, over quantiles of `latents` on each axis."""
    levels = (np.arange(GRID_SIDE) + 0.5) / GRID_SIDE
    first, second = np.quantile(latents[:, 0], levels), np.quantile(latents[:, 1], levels[::-1])
    z = np.stack(np.meshgrid(first, second), axis=-1).reshape(-1, 2).astype(np.float32)
    table = context.decode(z).reshape(GRID_SIDE, GRID_SIDE, *context.dataset.event_shape)
    every = range(0, GRID_SIDE, 4)
    columns = [f"{first[i]:.2f}" if i in every else "" for i in range(GRID_SIDE)]
    rows = [f"{second[i]:.2f}" if i in every else "" for i in range(GRID_SIDE)]
    source = "the prior" if from_prior else "the codes"
    title = f"{context.dataset.name}: decoded quantiles of {source}, z[0] to the right, z[1] upwards"
    context.figure("latent_grid", figures.image_table(table, title, rows, columns))


def write_projector(context: Context, codes: np.ndarray) -> None:
    """Writes the codes, with labels and small images, for TensorBoard's projector."""
    test = context.dataset.test
    chosen = context.choose(len(codes), context.board.capacity(context.dataset.event_shape), "projector")
    images = figures.to_rgb(to_unit(test.x[chosen])) if context.is_image else None
    context.board.embedding(codes[chosen], None if test.y is None else test.y[chosen], images)

