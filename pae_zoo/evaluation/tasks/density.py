"""The latent density of the model, beside simple densities fitted to the same codes."""


import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from pae_zoo.evaluation.context import Context
from pae_zoo.evaluation.metrics import detection
from pae_zoo.evaluation.metrics.density_baselines import BASELINES, Density, resampled
from pae_zoo.evaluation.support import code_quality, quality
from pae_zoo.evaluation.tasks import ood
from pae_zoo.plotting import figures

check_data = ood.check_data
DRAWS = 10_000
MANIFOLD_DATA = 1000
SHOWN = 12
MODEL, TRAINING_CODES = "model", "training_codes"


@dataclasses.dataclass(frozen=True)
class Flags(ood.SetFlags, quality.FrechetFlags):
    """The flags of the task density."""


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Log density of test codes under the model and under a Gaussian, a mixture and kernels fitted to the same codes.

    Samples of each, and the training codes themselves, are compared with codes and, decoded, with test images.

    Codes are draws from `encode`, the codes themselves where it is deterministic. Beside the densities: how close
    codes come to the prior in the base space, how close decoded samples come to test data, and how well each density
    tells other data apart. Baselines are fitted to training codes, bandwidths chosen on validation codes.
    """
    model = _model_density(context)
    splits = {split: getattr(context.dataset, split).x for split in ("train", "valid", "test")}
    codes = {split: context.draws(x, f"codes of {split}") for split, x in splits.items()}
    nll = {split: -model.log_prob(values).mean() for split, values in codes.items()}
    yield f"density/{MODEL}/nll", nll["test"]
    yield f"density/{MODEL}/train_nll", nll["train"]
    yield f"density/{MODEL}/valid_nll", nll["valid"]
    yield from _gaussianisation(context, codes["test"])
    densities = {MODEL: model}
    for name, fit in BASELINES.items():
        densities[name] = fit(codes["train"], codes["valid"], context.seed)
        context.say(f"density/{name}: {densities[name].note}.")
        yield f"density/{name}/nll", -densities[name].log_prob(codes["test"]).mean()
    yield from _manifold(context)
    sampled = {**densities, TRAINING_CODES: resampled(codes["train"])}
    yield from _samples(context, sampled, codes["test"])
    yield from _outliers(context, densities, codes["test"])


def _model_density(context: Context) -> Density:
    """Returns the model's own density; raises NotImplementedError for a model without one."""
    model = context.model
    model.prior()

    def log_prob(z, seed):
        return model.log_prob_latent(z)

    def sample(num, generator):
        draw = context.compile(lambda seed: model.sample_latent(num, seed))
        return draw(context.seed_for("density samples")).numpy()

    return Density(lambda codes: context.map_batches(log_prob, codes, "density"), sample, "the model's own")


def _gaussianisation(context: Context, codes: np.ndarray) -> Iterator[tuple[str, float]]:
    """How far test codes in the base space are from the prior, in units of its means and stds."""

    def to_base(z, seed):
        return context.model.base_from_latent(z)

    prior = context.model.prior()
    drawn = prior.sample(DRAWS, seed=context.seed_for("base")).numpy().astype(np.float64)
    try:
        centre, scale = (np.asarray(moment, np.float64) for moment in (prior.mean(), prior.stddev()))
    except NotImplementedError:  # a prior whose moments have no closed form
        centre, scale = drawn.mean(axis=0), drawn.std(axis=0)
    u = (context.map_batches(to_base, codes, "base").astype(np.float64) - centre) / scale
    mean, std = u.mean(axis=0), u.std(axis=0)
    yield "density/base_mean_abs_max", np.abs(mean).max()
    yield "density/base_std_min", std.min()
    yield "density/base_std_max", std.max()
    square = np.square(u).sum(axis=1)
    yield "density/base_square", square.mean() / u.shape[1]
    groups = {"codes of test data": square, "draws of the prior": np.square((drawn - centre) / scale).sum(axis=1)}
    title = f"{context.dataset.name}: squared length of standardised base variables, K = {u.shape[1]}"
    context.figure("density_base", figures.histogram(groups, title, "|u|^2"))


def _manifold(context: Context) -> Iterator[tuple[str, Any]]:
    """The injective log density of reconstructions, where the model offers it."""
    x = context.dataset.test.x[:MANIFOLD_DATA]
    try:
        found = context.map_batches(context.model.log_density_manifold, x, "manifold")
    except NotImplementedError as error:
        yield from context.unsupported(["density/manifold"], error)
        return
    yield "density/manifold", found.mean(dtype=np.float64)


def _samples(context: Context, densities: dict[str, Density], codes: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Moments of the model's samples in latent space; decoded samples of each density, and how good they are."""
    latents = {
        name: density.sample(DRAWS, np.random.default_rng(context.seed)).astype(np.float32)
        for name, density in densities.items()
    }
    spread = codes.std(axis=0)
    yield "density/sample_mean_error", (np.abs(latents[MODEL].mean(axis=0) - codes.mean(axis=0)) / spread).max()
    yield "density/sample_std_error", np.abs(latents[MODEL].std(axis=0) / spread - 1.0).max()
    by_key = {f"density/{name}": z for name, z in latents.items()}
    yield from code_quality.latent_quality(context, "density", by_key)
    if not context.is_image:
        return
    raw = np.random.default_rng(context.seed).normal(size=(SHOWN, codes.shape[1])).astype(np.float32)
    shown = np.stack([context.decode(z[:SHOWN]) for z in (*latents.values(), raw)])
    title = f"{context.dataset.name}: decoded samples of each density of the codes"
    context.figure("density_samples", figures.image_table(shown, title, [*latents, "N(0, I)"]))
    try:
        num = quality.num_images(context)
    except NotImplementedError as error:
        yield from context.unsupported([f"density/{name}/frechet" for name in latents], error)
        return
    for name, z in latents.items():
        yield from quality.sample_quality(context, f"density/{name}", context.decode(z[:num]))


def _outliers(context: Context, densities: dict[str, Density], codes: np.ndarray) -> Iterator[tuple[str, float]]:
    """AUROC of -log density against each OOD set."""
    inside = {name: -density.log_prob(codes) for name, density in densities.items()}
    for slug, (x, _) in ood.load_sets(context).items():
        outside = context.draws(x, f"codes of {slug}")
        for name, density in densities.items():
            yield f"density/{name}/auroc/{slug}", detection.auroc(inside[name], -density.log_prob(outside))

