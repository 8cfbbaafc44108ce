"""What restorations keep of their maxima and draws, for pictures and files: u and z, weights, Hessians, evidence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo import inference

# Runs whose Hessians are kept, the best ones.
MOST_KEPT = 16
#: what a file has of each datum: of its best maxima and of its draws
RECORDED = ("u", "z", "log_joint_of_runs", "weights", "hessians", "gauss_newtons", "stds", "draws_u", "draws_z")


def record(
    runs: inference.Runs, hessian: tf.Tensor, gauss_newton: tf.Tensor, exact: inference.Mixture,
    proposal: inference.Mixture, draws: tf.Tensor, to_latent: Callable[[tf.Tensor], tf.Tensor],
) -> dict[str, np.ndarray]:  # fmt: skip
    """Returns, for n data with M runs of which R are kept, all sorted by falling log joint:

    u, z (n, R, K); log_joint_of_runs (n, M); weights (n, R), of the mixture that draws start from, 0 for copies;
    hessians, gauss_newtons (n, R, K, K), of -log p(u, y_seen); stds (n, R, K), of the Gauss-Newton Gaussians;
    draws_u, draws_z (n, S, K); evidence_gauss_newton (n,).
    """
    joint = runs.log_joint.numpy()
    order = np.argsort(np.where(np.isfinite(joint), -joint, np.inf), axis=0, kind="stable")

    def best(values: Any, most: int = MOST_KEPT) -> np.ndarray:
        values = np.asarray(values)
        places = order[:most].reshape(*order[:most].shape, *[1] * (values.ndim - 2))
        return np.moveaxis(np.take_along_axis(values, places, axis=0), 0, 1)

    def latents(u: np.ndarray) -> np.ndarray:
        flat = to_latent(tf.constant(u.reshape(-1, u.shape[-1]))).numpy()
        return flat.reshape(u.shape)

    u, drawn = best(runs.u), np.moveaxis(draws.numpy(), 0, 1)
    first = slice(0, MOST_KEPT)
    return {
        "u": u, "z": latents(u), "log_joint_of_runs": best(joint, len(joint)),
        "weights": np.moveaxis(proposal.weights.numpy()[first], 0, 1),
        "hessians": best(hessian), "gauss_newtons": best(gauss_newton),
        "stds": np.moveaxis(np.sqrt(proposal.modes.variance.numpy()[first]), 0, 1),
        "draws_u": drawn, "draws_z": latents(drawn),
        "evidence_gauss_newton": proposal.evidence.numpy(),
    }  # fmt: skip


def evidence_of_latents(problem: inference.Problem, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns log p(y_seen), (n,) each, by Laplace at the maximum of log p(z, y_seen), climbed to from z (n, K).

    The first is by the exact Hessian, the second by Gauss-Newton; NaN where it is not positive definite. A density has
    another maximum, and other curvatures, in z than in u (Boehm & Seljak, arXiv 2006.05479, section 3.3).
    """
    runs = inference.find_modes(problem, start[None])
    found = [inference.laplace(runs.u, runs.log_joint, curvature(runs.u)).evidence[0]
             for curvature in (problem.hessian, problem.gauss_newton)]  # fmt: skip
    return found[0], found[1]
