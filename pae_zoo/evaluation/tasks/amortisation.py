"""How good q(z|x) is: what amortising it costs, how its updates climb, which latents it uses."""


import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import Context, to_unit
from pae_zoo.evaluation.support import latent_use
from pae_zoo.evaluation.support.local_posteriors import FAMILIES, Gaussians, LocalPosteriors, summaries
from pae_zoo.evaluation.tasks import likelihood
from pae_zoo.evaluation.tasks.likelihood import log_det
from pae_zoo.evaluation.tasks.reconstruction import standard_error
from pae_zoo.plotting import figures

SHOWN_IMAGES = 8
SHOWN_SAMPLES = 100
# Draws behind each bound, however few --importance_samples asks for: 100 leave an error of a third of a nat a datum.
MIN_SAMPLES = 1000
# Before the numbers of the model with refined codes.
REFINED = "refined_"
# What float32 loses in a sum over the values of a datum, relative to it: less is no fall.
ROUNDING = 1e-5


@dataclasses.dataclass(frozen=True)
class Flags(likelihood.Flags):
    """The flags of the task amortisation."""

    amortisation_images: int = option(200, "Test data whose posteriors the task amortisation optimises one by one.",
                                      low=1, group=EVALUATION, smoke=4)


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Inference, approximation and amortisation gaps; the path of a model's updates; active units; covariances of q.

    log p(x) - ELBO(q) splits at the best Gaussian q* of a family, found for each datum by itself, into an approximation
    gap log p(x) - ELBO(q*) and an amortisation gap ELBO(q*) - ELBO(q) (Cremer et al., arXiv 1801.03558, Table 1).
    With --refine=auto the bound of codes refined by Newton steps is beside: amortisation/refined/*. Needs a model with
    an ELBO, importance weights and `encode`.
    """
    test = context.dataset.test
    chosen = context.choose(len(test.x), int(context.hparams.amortisation_images), "amortisation")
    x = test.x[chosen]
    found, best, own = measure_gaps(context, x)
    yield from report_gaps(found)
    path = yield from report_path(context, x)
    columns = {"index": chosen, **({} if test.y is None else {"label": test.y[chosen]}), **found}
    if path is not None:
        columns |= {f"log_joint_{t}": values for t, values in enumerate(path.T)}
    context.table("amortisation.csv", columns)
    order = yield from latent_use.report(context)
    yield from latent_use.report_covariances(context, x, own, best, order)
    write_board(context, x, found)


# ---- gaps ----------------------------------------------------------------------------------------------


def measure_gaps(context: Context, x: np.ndarray) -> tuple[dict, dict[str, Gaussians], Any]:
    """Returns numbers of each datum, the best Gaussians of each family, and the covariances of q(z|x) or None.

    The numbers are nats, densities of x, each (n,): "elbo", "log_likelihood" and "effective_sample_size" of the model's
    own proposal, the same behind "<family>_" and, with --refine=auto, behind "refined_", and "log_det". All of a
    datum's take the same preprocessing noise; the families share their noise. The covariances (n, K, K) are None where
    `encode` has none in closed form.
    """
    model, beside, local = context.model, context.beside, LocalPosteriors(context)
    num_samples = max(int(context.hparams.importance_samples), MIN_SAMPLES)
    names = ("elbo", "log_likelihood", "effective_sample_size")

    def estimate(batch, seed):
        found = model.importance_estimate(batch, num_samples, seed)
        return {**{name: getattr(found, name) for name in names}, "log_det": log_det(model, batch, seed)}

    def refined(batch, seed):
        assert beside is not None
        found = beside.model.importance_estimate(batch, num_samples, seed)
        return {f"{REFINED}{name}": getattr(found, name) for name in names}

    def observed(batch, seed):
        return model.preprocess(batch, seeds.split(seed, 3)[0])[0]

    size = _even_batches(len(x), int(context.hparams.batch_size))
    base = context.seed_for("amortisation")
    numbers, best, covariances = [], {family: [] for family in FAMILIES}, []
    calls = -(-len(x) // size) * len(FAMILIES) * local.calls
    with context.progress(calls, "best Gaussians", "call") as bar:
        for index, (batch, count) in enumerate(context.batches(x, size)):
            batch, seed = tf.constant(batch), seeds.fold_in(base, index)
            values = {name: part.numpy() for name, part in context.compile(estimate)(batch, seed).items()}
            if beside is not None:
                values |= {name: part.numpy() for name, part in beside.compile(refined)(batch, seed).items()}
            y = context.compile(observed)(batch, seed)
            climb_seed, weight_seed, moment_seed = seeds.split(seeds.stream(seed, "amortisation"), 3)
            mean, covariance = local.moments(batch, moment_seed)
            covariances.append(covariance[:count])
            for family in FAMILIES:
                gaussians = local.best(family, y, mean, covariance, climb_seed, bar)
                for name, part in summaries(local.log_weights(y, gaussians, num_samples, weight_seed)).items():
                    shift = 0.0 if name == "effective_sample_size" else values["log_det"]
                    values[f"{family}_{name}"] = part + shift
                best[family].append([part[:count] for part in gaussians])
            numbers.append({name: part[:count].astype(np.float64) for name, part in values.items()})
    found = {name: np.concatenate([part[name] for part in numbers]) for name in numbers[0]}
    gaussians = {family: Gaussians(*map(np.concatenate, zip(*parts))) for family, parts in best.items()}
    return found, gaussians, np.concatenate(covariances) if local.in_closed_form else None


def _even_batches(num: int, largest: int) -> int:
    """Returns the batch size that cuts `num` data into as few batches as `largest` does, with the least padding."""
    return -(-num // -(-num // largest))


def best_proposal(found: dict[str, np.ndarray]) -> str:
    """Returns the prefix of the proposal with the largest mean log p(x): "", "refined_", "diagonal_" or "full_".

    Each estimate is below log p(x) in expectation, so the largest is the tightest; one choice for all data, for a
    choice datum by datum would pick the lucky ones.
    """
    prefixes = [prefix for prefix in ("", REFINED, *(f"{family}_" for family in FAMILIES))
                if f"{prefix}log_likelihood" in found]
    return max(prefixes, key=lambda prefix: found[f"{prefix}log_likelihood"].mean())


def report_gaps(found: dict[str, np.ndarray]) -> Iterator[tuple[str, Any]]:
    """Yields bounds and gaps, means over data with their standard errors, and which proposal gave log p(x)."""

    def both(key, values):
        yield f"amortisation/{key}", values.mean()
        yield f"amortisation/{key}_stderr", standard_error(values)

    prefix = best_proposal(found)
    log_p, elbo = found[f"{prefix}log_likelihood"], found["elbo"]
    yield "amortisation/num_images", len(elbo)
    yield "amortisation/proposal", prefix.rstrip("_") or "model"
    yield "amortisation/effective_sample_size", found[f"{prefix}effective_sample_size"].mean()
    yield from both("log_likelihood", log_p)
    yield from both("elbo", elbo)
    yield from both("inference_gap", log_p - elbo)
    if f"{REFINED}elbo" in found:
        yield from both("refined/elbo", found[f"{REFINED}elbo"])
        yield from both("refined/inference_gap", log_p - found[f"{REFINED}elbo"])
    for family in FAMILIES:
        local = found[f"{family}_elbo"]
        yield from both(f"{family}/elbo", local)
        yield from both(f"{family}/approximation_gap", log_p - local)
        yield from both(f"{family}/amortisation_gap", local - elbo)
        yield f"amortisation/{family}/share_better", np.mean(local > elbo)


# ---- the path of the updates ---------------------------------------------------------------------------


def report_path(context: Context, x: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Yields what each mean mu_t of the model's updates gives, draws them, and returns log p(x, mu_t), (n, T + 1)."""
    model = context.model

    def along(batch, seed):
        y, change = model.preprocess(batch)
        path = model.latent_path(batch, seed)
        log_prob = model.likelihood.log_prob(model.decoder_outputs(path), y) + change
        means = model.decode_mean(tf.reshape(path, (-1, path.shape[-1])))
        means = tf.reshape(means, (path.shape[0], -1, *means.shape[1:]))
        axes = list(range(2, len(means.shape)))
        parts = (
            log_prob + model.log_prob_latent(path), -log_prob, tf.reduce_mean((batch - means) ** 2, axis=axes), means,
        )
        swapped = [tf.transpose(part, (1, 0, *range(2, len(part.shape)))) for part in parts]
        return {**dict(zip(("log_joint", "recon_error", "mse", "means"), swapped)), "log_det": change}

    try:
        found = context.map_batches(along, x, "path of the updates")
    except NotImplementedError as error:
        keys = [f"amortisation/{name}" for name in ("log_joint", "recon_error", "mse")]
        yield from context.unsupported(keys, error)
        return None
    joint = found["log_joint"].astype(np.float64)
    for name in ("log_joint", "recon_error", "mse"):
        for t, values in enumerate(found[name].T.astype(np.float64)):
            yield f"amortisation/{name}/{t}", values.mean()
            yield f"amortisation/{name}/{t}_stderr", standard_error(values)
    rose = np.diff(joint, axis=1) >= -ROUNDING * np.abs(joint[:, 1:])
    for t, values in enumerate(rose.T, start=1):
        yield f"amortisation/share_improved/{t}", values.mean()
    if rose.shape[1]:
        yield "amortisation/share_improved", rose.all(axis=1).mean()
        draw_climb(context, joint)
    if context.is_image:
        draw_path(context, x, found["means"])
    write_path(context, found)
    return joint


def draw_climb(context: Context, joint: np.ndarray) -> None:
    """Saves log p(x, mu_t) over t: its mean, and by how much it exceeds that at the encoder's mean."""
    gain = joint - joint[:, :1]
    panels = {}
    for name, values in (("mean", joint), ("gain over the encoder's mean", gain)):
        error = np.array([standard_error(part) for part in values.T])
        panels[name] = (values.mean(axis=0), values.mean(axis=0) - error, values.mean(axis=0) + error)
    title = f"{context.dataset.name}: log p(x, mu_t) after t updates, {len(joint):,} test data, band: standard error"
    labels = ("log p(x, mu_t), nats", "log p(x, mu_t) - log p(x, mu_0), nats")
    context.figure("amortisation_climb", figures.curves(panels, title, "updates t", labels))


def draw_path(context: Context, x: np.ndarray, means: np.ndarray) -> None:
    """Saves a row per image: the datum, its reconstruction at every mu_t, and what the updates changed."""
    shown, x = means[:SHOWN_IMAGES], to_unit(x[:SHOWN_IMAGES])
    last = shown.shape[1] - 1
    pictures = [figures.to_rgb(x), *(figures.to_rgb(shown[:, t]) for t in range(last + 1))]
    labels, note = ["datum", *(f"mu_{t}" for t in range(last + 1))], ""
    title = f"{context.dataset.name}, {len(x)} test data:\ndecoder means at the mean of q(z|x)"
    if last:
        title = f"{context.dataset.name}, {len(x)} test data: decoder means at mu_t, after t updates"
        change = shown[:, last] - shown[:, 0]
        limit = max(float(np.abs(change).mean(axis=-1).max()), 1e-6)
        pictures.append(figures.signed_rgb(change, limit))
        labels.append("change")
        note = f"change = mu_{last} - mu_0: red +{limit:.2f}, white 0, blue -{limit:.2f}"
    table = np.stack(pictures, axis=1)
    context.figure("amortisation_path", figures.image_table(table, title, column_labels=labels, note=note))


# ---- TensorBoard, with upstream's tags -----------------------------------------------------------------


def write_path(context: Context, found: dict[str, np.ndarray]) -> None:
    """Writes reconstruction_mu/<t> and recon_error/<t> for t < T, and reconstruction_mu at mu_T."""
    last = found["log_joint"].shape[1] - 1
    errors = {f"recon_error/{t}": (found["recon_error"][:, t] + found["log_det"]).mean() for t in range(last)}
    context.board.scalars(errors)
    if context.is_image:
        for t in range(last + 1):
            tag = "reconstruction_mu" if t == last else f"reconstruction_mu/{t}"
            context.board.images(tag, figures.square(found["means"][:SHOWN_SAMPLES, t]))


def write_board(context: Context, x: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """Writes the scalars and pictures of the VLAE code under its tags: one draw per datum, densities of y."""
    model = context.model

    def one_sample(batch, seed):
        proposal_seed, draw_seed = seeds.split(seed, 2)
        y, _ = model.preprocess(batch)
        posterior = model.encode(batch, proposal_seed)
        z = posterior.sample(seed=draw_seed)
        recon_error = -model.likelihood.log_prob(model.decoder_outputs(z), y)
        kl = posterior.log_prob(z) - model.log_prob_latent(z)
        return {"recon_error": recon_error, "kl_div": kl, "means": model.decode_mean(z)}

    drawn = context.map_batches(one_sample, x, "one sample")
    means = {name: drawn[name].mean(dtype=np.float64) for name in ("recon_error", "kl_div")}
    log_p = found[f"{best_proposal(found)}log_likelihood"] - found["log_det"]
    context.board.scalars({**means, "test/loss": sum(means.values()), "test/loglikelihood": log_p.mean()})
    if context.is_image:
        context.board.images("data", figures.square(to_unit(x[:SHOWN_SAMPLES])))
        context.board.images("reconstruction_z", figures.square(drawn["means"][:SHOWN_SAMPLES]))
        samples = context.compile(lambda seed: model.sample(SHOWN_SAMPLES, seed))(context.seed_for("samples"))
        context.board.images("generated", figures.square(samples.numpy()))
