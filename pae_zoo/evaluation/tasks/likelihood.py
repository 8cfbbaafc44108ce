"""Evidence lower bound and importance-sampled log-likelihood of the test data, in nats."""


import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.core import pareto, seeds
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.data import preprocessing
from pae_zoo.evaluation.context import Context
from pae_zoo.evaluation.tasks.reconstruction import standard_error
from pae_zoo.plotting import figures

#: whether data may have missing values
TAKES_GAPS = True
BOUND_KEYS = ("test/elbo", "test/elbo_stderr", "test/elbo_model_space")
LIKELIHOOD_KEYS = (
    "test/log_likelihood", "test/log_likelihood_stderr", "test/log_likelihood_model_space", "test/elbo_gap",
    "test/log_likelihood_sampling_stderr", "test/effective_sample_size", "test/effective_sample_size_min",
    "test/unreliable",
)  # fmt: skip

# Share of data with heavy tails that is told.
MOST_UNRELIABLE = 0.1


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of importance sampling."""

    importance_samples: int = option(100, "Samples per datum of the importance-sampled likelihood.",
                                     low=1, high=10_000_000, group=EVALUATION, smoke=8)


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Evidence lower bound and importance-sampled log p(x) of the test split, with standard errors.

    log p(x) ~ logsumexp_s [log p(x|z_s) + log p(z_s) - log q(z_s|x)] - log S, z_s ~ q(z|x) with the model's
    own proposal (Burda et al., arXiv 1509.00519, eq. 8); `importance_samples` is S. The bound is the mean of
    the same log weights. Both are densities of x (of [0, 1] pixels); *_model_space are those of y. With --refine=auto
    the same of the model with refined codes is beside: test/refined/*. test/unreliable is the share of data whose
    weights have a tail too heavy for the estimate (`pae_zoo.core.pareto`).
    """
    model, num_samples = context.model, int(context.hparams.importance_samples)
    x, labels = context.dataset.test.x, context.dataset.test.y
    estimate = estimate_of(model, num_samples)

    def bound(batch, seed):
        return {"elbo": model.elbo(batch, seed), "log_det": log_det(model, batch, seed)}

    keys = list(LIKELIHOOD_KEYS) + (["test/bits_per_dim"] if has_bits(context) else [])
    try:
        values = context.map_batches(estimate, x, "likelihood")
    except NotImplementedError as error:
        yield from context.unsupported(keys, error)
        try:
            values = context.map_batches(bound, x, "likelihood")
        except NotImplementedError as error:
            yield from context.unsupported(BOUND_KEYS, error)
            return
    values = {key: value.astype(np.float64) for key, value in values.items()}
    if "log_likelihood" in values:
        values["sampling_stderr"] = sampling_stderr(values["effective_sample_size"], num_samples)
    refined = {}
    if "log_likelihood" in values:
        try:
            refined = estimate_refined(context, x, num_samples)
        except NotImplementedError as error:
            yield from context.unsupported([f"test/refined/{name}" for name in ("elbo", "log_likelihood")], error)
    columns = {"index": range(len(x)), **({} if labels is None else {"label": labels}), **values,
               **{f"refined_{name}": value for name, value in refined.items()}}  # fmt: skip
    context.table("likelihood.csv", columns)

    elbo = values["elbo"]
    yield "test/elbo", elbo.mean()
    yield "test/elbo_stderr", standard_error(elbo)
    yield "test/elbo_model_space", (elbo - values["log_det"]).mean()
    groups, marks = {"ELBO": elbo}, {f"mean ELBO {elbo.mean():.5g}": elbo.mean()}
    if "log_likelihood" in values:
        log_p, ess = values["log_likelihood"], values["effective_sample_size"]
        yield "test/log_likelihood", log_p.mean()
        yield "test/log_likelihood_stderr", standard_error(log_p)
        if num_samples > 1:
            yield "test/log_likelihood_sampling_stderr", mean_sampling_stderr(values["sampling_stderr"])
        yield "test/log_likelihood_model_space", (log_p - values["log_det"]).mean()
        yield "test/elbo_gap", (log_p - elbo).mean()
        yield "test/effective_sample_size", ess.mean()
        yield "test/effective_sample_size_min", ess.min()
        yield from report_tails(context, "test/", values["pareto_k"])
        yield "test/importance_samples", num_samples
        if has_bits(context):
            yield "test/bits_per_dim", bits_per_dim(context, log_p.mean())
        yield from report_refined(context, values, refined)
        if refined:
            groups["ELBO, refined"] = refined["elbo"]
            marks[f"mean refined ELBO {refined['elbo'].mean():.5g}"] = refined["elbo"].mean()
        groups["log p(x)"] = log_p
        marks[f"mean log p(x) {log_p.mean():.5g}"] = log_p.mean()
    title = f"{context.dataset.name}, {len(x):,} test data: log density of x"
    if "log_likelihood" in values:
        title += f" (S = {num_samples})"
    context.figure("likelihood", figures.histogram(groups, title, "nats per datum", marks))


def estimate_of(model: Any, num_samples: int) -> Callable[[tf.Tensor, tf.Tensor], dict[str, tf.Tensor]]:
    """Returns (batch, seed) -> the importance-sampled estimates of a model and log_det, each (batch,)."""

    def estimate(batch, seed):
        found = model.importance_estimate(batch, num_samples, seed)
        return {**found._asdict(), "log_det": log_det(model, batch, seed)}

    return estimate


def estimate_refined(context: Context, x: np.ndarray, num_samples: int) -> dict[str, np.ndarray]:
    """Returns the estimates of the model with refined codes, float64, (n,) each; nothing where none is asked for."""
    beside = context.beside
    if beside is None:
        return {}
    found = beside.map_batches(estimate_of(beside.model, num_samples), x, "likelihood")
    return {name: value.astype(np.float64) for name, value in found.items() if name != "log_det"}


def report_refined(context: Context, own: dict[str, np.ndarray], refined: dict[str, np.ndarray],
                   ) -> Iterator[tuple[str, Any]]:
    """Yields what refined codes give, test/refined/*, and says it beside what the model's own give."""
    if not refined:
        return
    for name in ("elbo", "log_likelihood"):
        yield f"test/refined/{name}", refined[name].mean()
        yield f"test/refined/{name}_stderr", standard_error(refined[name])
    yield "test/refined/effective_sample_size", refined["effective_sample_size"].mean()
    yield from report_tails(context, "test/refined/", refined["pareto_k"])
    lost = np.count_nonzero(np.isfinite(own["elbo"]) & ~np.isfinite(refined["elbo"]))
    if lost:
        context.say(f"Refined codes of {lost} of {len(refined['elbo'])} data are not finite: the decoder's derivatives "
                    "are not. --refine=none leaves them out.")
    context.say(f"Codes refined by {context.hparams.refine_updates} line-searched Newton steps: ELBO "
                f"{own['elbo'].mean():.5g} -> {refined['elbo'].mean():.5g}, log p(x) "
                f"{own['log_likelihood'].mean():.5g} -> {refined['log_likelihood'].mean():.5g} nats. "
                "--refine=line_search takes them everywhere.")


def report_tails(context: Context, prefix: str, shapes: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Yields the share of data whose estimates are unreliable, by the shapes (n,) of their weights' tails; says so."""
    if np.isnan(shapes).all():
        return  # too few samples for a tail
    share = np.mean(shapes > pareto.UNRELIABLE)
    yield f"{prefix}pareto_k", np.median(shapes)
    yield f"{prefix}unreliable", share
    if share > MOST_UNRELIABLE:
        context.say(f"{prefix}log_likelihood: unreliable for {share:.0%} of the data, whose importance weights have a "
                    f"tail of shape above {pareto.UNRELIABLE}; it is a lower bound there. Raise --importance_samples"
                    f"{'' if 'refined' in prefix else ', or refine the codes'}.")


def sampling_stderr(effective_sample_size: np.ndarray, num_samples: int) -> np.ndarray:
    """Returns the Monte-Carlo standard error of each datum's log p(x), nats, (n,); NaN for a single sample.

    By the delta method it is that of the mean weight over the mean weight, whose square is 1/ESS - 1/S with
    ESS = (sum w)^2 / sum w^2; that is the variance of the weights with S in the denominator.
    """
    if num_samples == 1:
        return np.full(len(effective_sample_size), np.nan)
    return np.sqrt(np.maximum(1.0 / effective_sample_size - 1.0 / num_samples, 0.0))


def mean_sampling_stderr(errors: np.ndarray) -> float:
    """Returns the standard error of the mean of independent estimates, from theirs (n,)."""
    return float(np.sqrt(np.square(errors).sum()) / len(errors))


def log_det(model: Any, x: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Returns log |dy/dx|, shape (batch,), with the noise that `elbo` and `importance_estimate` use at `seed`.

    Models draw preprocessing noise from the first of three seeds split off the one they are given.
    """
    return model.preprocess(x, seeds.split(seed, 3)[0])[1]


def bits_per_dim(context: Context, log_prob: float) -> float:
    """Returns bits per dimension of the mean log density, or log probability of bytes, of data; see `has_bits`."""
    found = preprocessing.bits_per_dim(log_prob, math.prod(context.dataset.event_shape))
    return found - 8.0 if _is_of_bytes(context.model) else found


def _is_of_bytes(model: Any) -> bool:
    likelihood = getattr(model, "likelihood", None)
    return getattr(getattr(likelihood, "component", likelihood), "has_bits", False)


def has_bits(context: Context) -> bool:
    """Whether bits per dimension mean something: 8-bit images that the model sees dequantised, or takes as bytes."""
    if _is_of_bytes(context.model):
        return True
    steps = getattr(context.model.preprocessing, "steps", [context.model.preprocessing])
    dequantised = any(isinstance(step, preprocessing.Dequantise) for step in steps)
    return context.is_image and context.dataset.test.x.dtype == np.uint8 and dequantised
