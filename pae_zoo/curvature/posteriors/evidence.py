"""The log evidence of a Laplace approximation as a function of its scales, and the scales that maximise it.

    log Z = log p(data | theta) + sum_l [(P_l/2) log gamma_l - gamma_l/2 |theta_l|^2] - 1/2 log |c G + Gamma|

with c = kappa / sigma^2, one prior precision gamma_l for each block of weights, and for Gaussian data
log p(data | theta) = -(M/2) log(2 pi sigma^2) - SSE / (2 sigma^2), M the number of observed values. G is used through
its eigenvalues, found once, so that any number of scales costs next to nothing. MacKay, Neural Computation 4 (1992)
415; Immer et al., arXiv 2104.04975. Natural logarithms; all numbers in float64.
"""

import dataclasses
import math
from typing import Optional, Protocol, Sequence, Union

import numpy as np

from pae_zoo.core.errors import UserError

TOLERANCE = 1e-6
MAX_ITERATIONS = 1000


class Spectrum(Protocol):
    """What the evidence needs of a curvature G: two functions of its prior precisions gamma (L,) and its scale c."""

    sizes: np.ndarray

    def log_det(self, gamma: np.ndarray, scale: float) -> float:
        """Returns log |c G + Gamma|."""
        ...

    def effective(self, gamma: np.ndarray, scale: float) -> np.ndarray:
        """Returns P_l - gamma_l tr (c G + Gamma)^-1_ll, how many weights of each block the data determine, (L,)."""
        ...


def _eigenvalues(values) -> np.ndarray:
    """Returns eigenvalues (n,) in float64, negative ones, which are rounding, as 0; raises UserError."""
    values = np.asarray(values, np.float64).reshape(-1)
    if not np.isfinite(values).all():
        raise UserError("The curvature has values that are not finite, so that it has no evidence; look at the weights "
                        "and the data it was computed with.")
    return np.maximum(values, 0.0)


class Separate:
    """The spectrum of a curvature without entries between blocks.

    Args:
      values: for each block its P_l eigenvalues, or its diagonal; those that rounding made negative count as 0.
    """

    def __init__(self, values: Sequence[np.ndarray]):
        self.values = [_eigenvalues(one) for one in values]
        self.sizes = np.array([one.size for one in self.values])

    def log_det(self, gamma: np.ndarray, scale: float) -> float:
        return float(sum(np.log(scale * one + g).sum() for one, g in zip(self.values, gamma)))

    def effective(self, gamma: np.ndarray, scale: float) -> np.ndarray:
        return np.array([(scale * one / (scale * one + g)).sum() for one, g in zip(self.values, gamma)])


class LowRank:
    """The spectrum of G = U diag(s) U^T + D, U (P, r) with orthonormal columns that reach over all blocks.

    With V = U s^(1/2) and the diagonal R = c D + Gamma, |c G + Gamma| = |R| |I + c V^T R^-1 V|.

    Args:
      vectors: U by block, (P_l, r).
      values: s (r,).
      rest: D by block, (P_l,); None: 0.
    """

    def __init__(self, vectors: Sequence[np.ndarray], values: np.ndarray, rest: Optional[Sequence[np.ndarray]] = None):
        root = np.sqrt(_eigenvalues(values))
        self.sizes = np.array([len(one) for one in vectors])
        self.scaled = [np.asarray(one, np.float64) * root for one in vectors]
        self.rest = None if rest is None or not any(one.any() for one in rest) else [_eigenvalues(one) for one in rest]
        # Without D one product of the blocks of V is enough for all scales.
        self.grams = np.stack([one.T @ one for one in self.scaled]) if self.rest is None else None

    def _diagonals(self, gamma, scale) -> list[np.ndarray]:
        """Returns R by block, a single number (1,) where D is 0."""
        return [scale * one + g for one, g in zip(self.rest or np.zeros((len(gamma), 1)), gamma)]

    def _weighted(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        """Returns V_l^T diag(w_l) V_l of each block, (L, r, r)."""
        if self.grams is not None:
            return np.stack([gram * weight for gram, weight in zip(self.grams, weights)])
        return np.stack([one.T @ (one * weight[:, None]) for one, weight in zip(self.scaled, weights)])

    def _inner(self, diagonals, scale) -> np.ndarray:
        found = self._weighted([1 / one for one in diagonals]).sum(axis=0)
        return np.eye(found.shape[-1]) + scale * found

    def log_det(self, gamma: np.ndarray, scale: float) -> float:
        diagonals = self._diagonals(gamma, scale)
        own = sum(size * np.log(one).mean() for size, one in zip(self.sizes, diagonals))
        return float(own + np.linalg.slogdet(self._inner(diagonals, scale))[1])

    def effective(self, gamma: np.ndarray, scale: float) -> np.ndarray:
        diagonals = self._diagonals(gamma, scale)
        solved = np.linalg.inv(self._inner(diagonals, scale))
        own = np.array([size * (1 - g / one).mean() for size, g, one in zip(self.sizes, gamma, diagonals)])
        caught = self._weighted([1 / one**2 for one in diagonals])
        return own + gamma * scale * np.einsum("lij,ji->l", caught, solved)


@dataclasses.dataclass(frozen=True)
class Fit:
    """How well the weights explain the data.

    Args:
      sse: squared error summed over data and values, of a Gaussian likelihood whose noise variance is free.
      num_values: how many values those are, M.
      log_likelihood: log p(data | theta) of any other likelihood, in nats; then sigma^2 is 1 and stays so.

    Raises UserError unless exactly one of the two is given, finite, with sse >= 0 and M >= 1.
    """

    sse: Optional[float] = None
    num_values: Optional[float] = None
    log_likelihood: Optional[float] = None

    def __post_init__(self):
        given = self.sse is not None, self.num_values is not None, self.log_likelihood is not None
        if given not in ((True, True, False), (False, False, True)):
            raise UserError(f"The evidence takes either sse and num_values, or log_likelihood; received {self}.")
        if self.is_gaussian and not (math.isfinite(self.error) and self.error >= 0 and self.count >= 1):
            raise UserError(f"sse must be finite and not negative, num_values 1 or more; received {self.sse!r} and "
                            f"{self.num_values!r}.")
        if self.log_likelihood is not None and not math.isfinite(self.log_likelihood):
            raise UserError(f"log_likelihood must be finite; received {self.log_likelihood!r}.")

    @property
    def is_gaussian(self) -> bool:
        """Whether there is a noise variance."""
        return self.log_likelihood is None

    @property
    def error(self) -> float:
        """The squared error, 0 where the likelihood is no Gaussian."""
        return 0.0 if self.sse is None else self.sse

    @property
    def count(self) -> float:
        """The number of values, 0 where the likelihood is no Gaussian."""
        return 0.0 if self.num_values is None else self.num_values

    def log_prob(self, noise_variance: float) -> float:
        """Returns log p(data | theta) in nats."""
        if self.log_likelihood is not None:
            if noise_variance != 1:
                raise UserError(f"A noise variance of {noise_variance!r} belongs to a Gaussian likelihood; with "
                                "log_likelihood it is 1.")
            return float(self.log_likelihood)
        return -0.5 * self.count * math.log(2 * math.pi * noise_variance) - 0.5 * self.error / noise_variance


@dataclasses.dataclass(frozen=True)
class Scales:
    """Prior precisions (L,) and noise variance, log Z there in nats, P_eff by block (L,), and steps taken."""

    prior_precision: np.ndarray
    noise_variance: float
    log_evidence: float
    effective: np.ndarray
    iterations: int


class Evidence:
    """The log evidence of one approximation, and its maximum over the scales.

    Args:
      spectrum: of the curvature.
      norms: |theta_l|^2 of the blocks, (L,).
      fit: of the data.
      kappa: factor of the curvature.
    """

    def __init__(self, spectrum: Spectrum, norms: np.ndarray, fit: Fit, kappa: float = 1.0):
        self.spectrum, self.fit = spectrum, fit
        self.norms = np.asarray(norms, np.float64)
        self.kappa = float(_positive("kappa", kappa, ()))

    def __call__(self, prior_precision, noise_variance: float = 1.0) -> float:
        """Returns log Z in nats; `prior_precision` is (L,) or one number; raises UserError unless all are positive."""
        gamma, variance = self._checked(prior_precision, noise_variance)
        prior = 0.5 * float(self.spectrum.sizes @ np.log(gamma) - gamma @ self.norms)
        return self.fit.log_prob(variance) + prior - 0.5 * self.spectrum.log_det(gamma, self.kappa / variance)

    def fixed_point(self, prior_precision: Union[float, Sequence[float], np.ndarray] = 1.0, noise_variance: float = 1.0,
                    *, per_layer: bool = False, learn_noise: bool = True) -> Scales:
        """Returns the scales where gamma_l = P_eff_l / |theta_l|^2 and sigma^2 = SSE / (M - P_eff), to 1e-6 relative.

        The arguments are the start. One gamma is shared unless `per_layer`; sigma^2 is learned for Gaussian data,
        unless `learn_noise` is False. Each step goes half the way in the logarithms: with few determined weights the
        whole step overshoots by nearly as much as it corrects. Raises UserError where there is no such point.
        """
        gamma, variance, groups, learn_noise = self._start(prior_precision, noise_variance, per_layer, learn_noise)
        norms, change = groups @ self.norms, math.inf
        for iteration in range(1, MAX_ITERATIONS + 1):
            effective = groups @ self.spectrum.effective(groups.T @ gamma, self.kappa / variance)
            goal, goal_variance = effective / norms, variance
            if learn_noise:
                goal_variance = self.fit.error / (self.fit.count - effective.sum())
            self._check_goal(goal, goal_variance, effective)
            change = max(np.abs(goal / gamma - 1).max(), abs(goal_variance / variance - 1))
            if change < TOLERANCE:
                return self._scales(groups.T @ goal, goal_variance, iteration)
            gamma, variance = np.sqrt(gamma * goal), math.sqrt(variance * goal_variance)
        raise UserError(f"The fixed point of the evidence was not reached in {MAX_ITERATIONS} steps (last change "
                        f"{change:.1e}); take method='gradient', or set the prior precision and the noise variance.")

    def by_gradient(self, prior_precision: Union[float, Sequence[float], np.ndarray] = 1.0, noise_variance: float = 1.0,
                    *, per_layer: bool = False, learn_noise: bool = True) -> Scales:
        """Returns the scales of the largest evidence, by L-BFGS on their logarithms; arguments of `fixed_point`.

        d log Z / d log gamma_l = (P_eff_l - gamma_l |theta_l|^2) / 2 and d log Z / d log sigma^2 = (SSE / sigma^2 +
        P_eff - M) / 2.
        """
        from scipy import optimize

        gamma, variance, groups, learn_noise = self._start(prior_precision, noise_variance, per_layer, learn_noise)
        count = len(gamma)
        unit = float(self.spectrum.sizes.sum() + (self.fit.count if learn_noise else 0))

        def loss(logs):
            gamma = groups.T @ np.exp(logs[:count])
            variance_now = math.exp(logs[-1]) if learn_noise else variance
            effective = self.spectrum.effective(gamma, self.kappa / variance_now)
            slopes = [*(0.5 * groups @ (effective - gamma * self.norms))]
            if learn_noise:
                slopes.append(0.5 * (self.fit.error / variance_now + effective.sum() - self.fit.count))
            return -self(gamma, variance_now) / unit, -np.array(slopes) / unit

        start = np.log([*gamma, *([variance] if learn_noise else [])])
        # The bounds only keep exp() finite: a scale that ends on one has no optimum.
        found = optimize.minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(-60.0, 60.0)] * len(start),
                                  options={"ftol": 1e-15, "gtol": 1e-12, "maxiter": MAX_ITERATIONS, "maxls": 50})
        scales = np.exp(found.x)
        if not np.isfinite(found.fun) or np.abs(found.x).max() > 59:
            raise UserError(f"The evidence has no largest value: its prior precisions went to {scales[:count]}"
                            f"{f' and its noise variance to {scales[-1]:.1e}' if learn_noise else ''}; set them.")
        return self._scales(groups.T @ scales[:count], scales[-1] if learn_noise else variance, int(found.nit))

    def _checked(self, prior_precision, noise_variance) -> tuple[np.ndarray, float]:
        gamma = _positive("prior_precision", prior_precision, self.spectrum.sizes.shape)
        return gamma, float(_positive("noise_variance", noise_variance, ()))

    def _start(self, prior_precision, noise_variance, per_layer, learn_noise):
        """Returns gamma by group, sigma^2, the groups as rows of 0 and 1, and whether sigma^2 is learned."""
        gamma, variance = self._checked(prior_precision, noise_variance)
        count = len(gamma)
        groups = np.eye(count) if per_layer else np.ones((1, count))
        norms = groups @ self.norms
        if not (np.isfinite(norms).all() and (norms > 0).all()):
            raise UserError(f"The prior precision of weights with |theta|^2 = {norms.min():g} has no optimum; the "
                            "weights must be finite and not all 0. Set prior_precision, or share one by "
                            "per_layer=False.")
        learn_noise = learn_noise and self.fit.is_gaussian
        if learn_noise and self.fit.sse == 0:
            raise UserError("The squared error is 0, so that the best noise variance is 0; set noise_variance.")
        return np.exp(groups @ np.log(gamma) / groups.sum(axis=1)), variance, groups, learn_noise

    def _check_goal(self, goal, goal_variance, effective) -> None:
        if not (np.isfinite(goal_variance) and goal_variance > 0):
            raise UserError(f"The data determine {effective.sum():.4g} weights, no fewer than their "
                            f"{self.fit.num_values} values, so that no noise is left; give more data or set "
                            "noise_variance.")
        if not (goal > 0).all():
            raise UserError("The curvature of a group of weights is 0: the data say nothing on them, and their prior "
                            "precision has no optimum. Set prior_precision, or leave their layer out.")

    def _scales(self, gamma, variance, iterations) -> Scales:
        effective = self.spectrum.effective(gamma, self.kappa / variance)
        return Scales(np.array(gamma), float(variance), self(gamma, variance), effective, iterations)


def _positive(name: str, values, shape: tuple[int, ...]) -> np.ndarray:
    """Returns `values` as float64 of that shape; raises UserError unless they are finite and positive."""
    values = np.asarray(values, np.float64)
    if values.shape not in ((), shape):
        allowed = f"one number or {shape[0]}" if shape else "one number"
        raise UserError(f"{name} must be {allowed}; received shape {values.shape}.")
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise UserError(f"{name} must be finite and above 0; received {values.tolist()}.")
    return np.broadcast_to(values, shape)
