"""Which latents a model uses, and how they hang together in q(z|x); parts of the task amortisation."""

from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.evaluation.context import UNSUPPORTED, Context, sentence, to_unit
from pae_zoo.evaluation.support.local_posteriors import Gaussians
from pae_zoo.plotting import figures

ACTIVE_VARIANCE = 0.01
SHOWN = 4
# Where moments have no formula: so many draws for each of so many data.
DRAWS, DRAWN_DATA = 100, 1000


def report(context: Context) -> Iterator[tuple[str, Any]]:
    """Yields active units and moments of the aggregate posterior; returns the latents' order, the most active first.

    A latent k is active when Var_x(E_q[z_k|x]) > 0.01 (Burda et al., arXiv 1509.00519, section 5.2). The aggregate
    posterior is the mean of q(z|x) over test data: its variance is that of the means plus the mean of the variances.
    """
    centre, activity, within, num_data = moments(context)
    variance = activity + within
    yield "amortisation/active_units", (activity > ACTIVE_VARIANCE).sum()
    yield "amortisation/aggregate_mean_max", np.abs(centre).max()
    yield "amortisation/aggregate_variance_min", variance.min()
    yield "amortisation/aggregate_variance_max", variance.max()
    yield "amortisation/aggregate_kl", 0.5 * (variance + centre**2 - 1.0 - np.log(variance)).sum()
    order = np.argsort(-activity, kind="stable")
    count = int((activity > ACTIVE_VARIANCE).sum())
    panels = {
        "Var of E[z|x]": (np.maximum(activity[order], 1e-6), ACTIVE_VARIANCE),
        "variance of\naggregate q": (variance[order], 1.0),
        "mean of\naggregate q": (centre[order], 0.0),
    }
    title = f"{context.dataset.name}, {num_data:,} test data: {count} of {len(order)} latents active"
    note = "latent, the most active first (dashed: threshold 0.01; moments of N(0, I))"
    figure = figures.per_latent(panels, [str(k) for k in order], title, note)
    context.figure("amortisation_latents", figure)
    return order


def moments(context: Context) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Returns mean of E[z|x], its variance and the mean of Var[z|x] over test data, each (K,), and the number of data.

    Where q(z|x) has no moments in closed form they are those of 100 draws for 1,000 data, and the variance of the
    means is rid of what the draws' noise adds to it.
    """
    model, x = context.model, context.dataset.test.x
    try:
        model.encode(to_unit(x[:1]), context.seed_for("codes")).variance()
    except NotImplementedError as error:
        context.say(f"Moments of the aggregate posterior are those of draws. {sentence(error)}")
        x = x[context.choose(len(x), DRAWN_DATA, "latent use")]

        def drawn(batch, seed):
            proposal_seed, draw_seed = seeds.split(seed, 2)
            z = model.encode(batch, proposal_seed).sample(DRAWS, seed=draw_seed)
            mean, variance = tf.nn.moments(z, axes=[0])
            return mean, variance * DRAWS / (DRAWS - 1)

        means, variances = context.map_batches(drawn, x, "latent use")
        noise = variances.mean(axis=0, dtype=np.float64) / DRAWS
    else:
        means, variances = context.test_codes
        noise = 0.0
    within = variances.mean(axis=0, dtype=np.float64)
    activity = np.maximum(means.var(axis=0, dtype=np.float64) - noise, 0.0)
    return means.mean(axis=0, dtype=np.float64), activity, within, len(x)


def report_covariances(
    context: Context, x: np.ndarray, own: Optional[np.ndarray], best: dict[str, Gaussians], order: np.ndarray
) -> Iterator[tuple[str, Any]]:
    """Yields the mean absolute correlation between latents in q(z|x) and in the best full Gaussians; draws some.

    own: covariances (n, K, K) of q(z|x), None where they have no closed form. best: the best Gaussians of each datum.
    order: of the latents.
    """
    if len(order) == 1:
        return
    yield "amortisation/full/off_diagonal_correlation", off_diagonal(best["full"].covariance)
    if own is None:
        yield "amortisation/off_diagonal_correlation", UNSUPPORTED
        return
    yield "amortisation/off_diagonal_correlation", off_diagonal(own)

    def shown(values):
        return values[:SHOWN][:, order][:, :, order]

    columns = {
        "covariance,\nbest diagonal": shown(best["diagonal"].covariance),
        "covariance,\nq(z|x)": shown(own),
        "covariance,\nbest full": shown(best["full"].covariance),
        "correlation,\nq(z|x)": shown(correlation(own)),
        "correlation,\nbest full": shown(correlation(best["full"].covariance)),
    }
    names = list(columns)
    groups = {"covariance": names[:3], "correlation": names[3:]}
    title = f"{context.dataset.name}, {len(columns[names[0]])} test data: latents in q(z|x) and in the best Gaussians"
    images = to_unit(x[:SHOWN]) if context.is_image else None
    note = f"{len(order)} latents, the most active first, from the top left"
    context.figure("amortisation_covariances", figures.matrices(images, columns, groups, title, note))


def correlation(covariance: np.ndarray) -> np.ndarray:
    """Returns the correlations of covariances (n, K, K)."""
    std = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1))
    return covariance / (std[:, :, None] * std[:, None, :])


def off_diagonal(covariance: np.ndarray) -> float:
    """Returns the mean absolute correlation between two latents under covariances (n, K, K), K > 1."""
    size = covariance.shape[-1]
    return np.abs(correlation(covariance))[:, ~np.eye(size, dtype=bool)].mean(dtype=np.float64)
