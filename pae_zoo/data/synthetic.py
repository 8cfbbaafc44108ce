"""Densities with closed forms: what a flow or a VAE can be checked against without any download.

`log_prob(x)` of every set maps an array (n, *event) to the exact natural-log density (n,), in float64.
"""

import dataclasses
from typing import Callable

import numpy as np

from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.data.dataset import Info
from pae_zoo.data.rows import ArrayRows, Raw

NUM_TRAIN, NUM_TEST = 12_000, 2_000
CIRCLE_NOISE = 0.05
ROSENBROCK_Q = 0.01


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """A density: `sample(rng, n)` gives (n, *event) float64, `log_prob(x)` nats."""

    info: Info
    sample: Callable[[np.random.Generator, int], np.ndarray]
    log_prob: Callable[[np.ndarray], np.ndarray]


def _circle(rng: np.random.Generator, n: int) -> np.ndarray:
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle)], 1) + CIRCLE_NOISE * rng.normal(size=(n, 2))


def _circle_log_prob(x: np.ndarray) -> np.ndarray:
    """log p = -log(2 pi s^2) - (|x| - 1)^2 / (2 s^2) + log ive(0, |x| / s^2), the angle integrated out."""
    from scipy import special

    radius, variance = np.linalg.norm(x, axis=-1), CIRCLE_NOISE**2
    return (
        -LOG_2PI
        - np.log(variance)
        - (radius - 1) ** 2 / (2 * variance)
        + np.log(special.ive(0, radius / variance))
    )


@dataclasses.dataclass(frozen=True)
class Spiral:
    """x = scale t (cos t, sin t) + noise e, t = turns pi (1 + 2 u), u uniform on [0, 1], e ~ N(0, I_2).

    `panels`: Gauss-Legendre rules of 512 nodes each that the integral over u is cut into.
    """

    turns: float
    scale: float
    noise: float
    panels: int

    def curve(self, u: np.ndarray) -> np.ndarray:
        """Returns the points (..., 2) of the noiseless spiral at u (...)."""
        t = self.turns * np.pi * (1 + 2 * u)
        return self.scale * np.stack([t * np.cos(t), t * np.sin(t)], -1)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        return self.curve(rng.uniform(0, 1, n)) + self.noise * rng.normal(size=(n, 2))

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log of the integral over u in [0, 1] of N(x; curve(u), noise^2 I)."""
        from scipy import special

        u, log_weights = _panels(self.panels)
        points = self.curve(u)
        x = np.asarray(x, np.float64)
        parts = []
        size = 4096 // self.panels  # bounds the memory of the distances
        for start in range(0, len(x), size):
            squared = np.sum((x[start : start + size, None] - points) ** 2, -1)
            parts.append(special.logsumexp(log_weights - squared / (2 * self.noise**2), axis=1))
        return np.concatenate(parts or [np.zeros(0)]) - LOG_2PI - 2 * np.log(self.noise)


SWISSROLL = Spiral(turns=1.5, scale=0.1, noise=0.05, panels=1)
SWISSROLL_LAE = Spiral(turns=2.0, scale=1.0, noise=0.2, panels=4)


def _panels(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns nodes in [0, 1] and log weights of `number` Gauss-Legendre rules of 512 nodes, one beside the other."""
    nodes, weights = np.polynomial.legendre.leggauss(512)
    starts = np.arange(number)[:, None]
    return (((nodes + 1) / 2 + starts) / number).reshape(-1), np.log(np.tile(weights / 2 / number, number))


@dataclasses.dataclass(frozen=True)
class Waves:
    """x_t = a cos(w t) + b sin(w t) + noise e_t, t = 0 ... length - 1; a, b, e_t ~ N(0, 1), w uniform on [low, high].

    `panels`: Gauss-Legendre rules of 512 nodes each that the integral over w is cut into.
    """

    length: int
    low: float
    high: float
    noise: float
    panels: int

    def basis(self, w: np.ndarray) -> np.ndarray:
        """Returns cosine and sine at frequencies w (m,), radians a step: (m, length, 2)."""
        angle = np.asarray(w)[:, None] * np.arange(self.length)
        return np.stack([np.cos(angle), np.sin(angle)], -1)

    def sample(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Returns n waves, (n, length, 1)."""
        basis = self.basis(rng.uniform(self.low, self.high, n))
        wave = np.einsum("ntk,nk->nt", basis, rng.normal(size=(n, 2)))
        return (wave + self.noise * rng.normal(size=wave.shape))[..., None]

    def log_prob(self, x: np.ndarray) -> np.ndarray:
        """log of the integral over w of N(x; 0, B_w B_w' + noise^2 I), B_w the basis, by the 2x2 matrix of B_w' B_w."""
        from scipy import special

        u, log_weights = _panels(self.panels)
        basis, variance = self.basis(self.low + (self.high - self.low) * u), self.noise**2
        inner = np.einsum("mti,mtj->mij", basis, basis) + variance * np.eye(2)
        half = np.linalg.inv(np.linalg.cholesky(inner))
        whitened = np.einsum("mij,mtj->tmi", half, basis)
        constant = log_weights + np.sum(np.log(half[:, [0, 1], [0, 1]]), axis=1)
        x = np.asarray(x, np.float64).reshape(-1, self.length)
        parts = []
        for start in range(0, len(x), 256):
            some = x[start : start + 256]
            explained = np.sum(np.tensordot(some, whitened, 1) ** 2, axis=-1)
            squared = np.sum(some**2, axis=1, keepdims=True) - explained
            parts.append(special.logsumexp(constant - squared / (2 * variance), axis=1))
        rest = (self.length - 2) * np.log(self.noise) + 0.5 * self.length * LOG_2PI
        return np.concatenate(parts or [np.zeros(0)]) - rest


WAVES = Waves(length=32, low=0.2, high=0.8, noise=0.1, panels=4)


def banana_rotation() -> np.ndarray:
    """Returns the fixed random rotation of `banana`, (32, 32): x = R (a_1, b_1, ..., a_16, b_16)."""
    q, r = np.linalg.qr(np.random.default_rng(32).normal(size=(32, 32)))
    q = q * np.sign(np.diag(r))
    q[:, 0] *= np.sign(np.linalg.det(q))
    return q


def _banana(rng: np.random.Generator, n: int) -> np.ndarray:
    a = 1 + np.sqrt(0.5) * rng.normal(size=(n, 16))
    b = a**2 + np.sqrt(ROSENBROCK_Q / 2) * rng.normal(size=(n, 16))
    return np.stack([a, b], -1).reshape(n, 32) @ banana_rotation().T


def _banana_log_prob(x: np.ndarray) -> np.ndarray:
    """log p = -sum [(a^2 - b)^2 / Q + (a - 1)^2] - 16 log(pi sqrt Q); the constant is +18.5257."""
    pairs = (np.asarray(x, np.float64) @ banana_rotation()).reshape(len(x), 16, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    energy = np.sum((a**2 - b) ** 2 / ROSENBROCK_Q + (a - 1) ** 2, axis=1)
    return -energy - 16 * np.log(np.pi * np.sqrt(ROSENBROCK_Q))


def _lognormal(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.exp(rng.normal(size=(n, 4)))


def _lognormal_log_prob(x: np.ndarray) -> np.ndarray:
    """log p = sum_d [-log x_d - (log x_d)^2 / 2 - log(2 pi) / 2] for x > 0, else minus infinity."""
    x = np.asarray(x, np.float64)
    inside = (x > 0).all(axis=1)
    log_x = np.log(np.where(x > 0, x, 1.0))
    value = np.sum(-log_x - 0.5 * log_x**2 - 0.5 * LOG_2PI, axis=1)
    return np.where(inside, value, -np.inf)


def linear_gaussian_parameters() -> tuple[np.ndarray, np.ndarray, float]:
    """Returns (W, b, sigma) of x = W z + b + sigma e: W (10, 3), b (10,), z ~ N(0, I_3), e ~ N(0, I_10)."""
    rng = np.random.default_rng(10)
    return rng.normal(size=(10, 3)), rng.normal(size=10), 0.3


def _linear_gaussian(rng: np.random.Generator, n: int) -> np.ndarray:
    weight, bias, sigma = linear_gaussian_parameters()
    return rng.normal(size=(n, 3)) @ weight.T + bias + sigma * rng.normal(size=(n, 10))


def _linear_gaussian_log_prob(x: np.ndarray) -> np.ndarray:
    """log N(x; b, W W^T + sigma^2 I)."""
    weight, bias, sigma = linear_gaussian_parameters()
    factor = np.linalg.cholesky(weight @ weight.T + sigma**2 * np.eye(10))
    white = np.linalg.solve(factor, (np.asarray(x, np.float64) - bias).T)
    return -0.5 * np.sum(white**2, axis=0) - np.sum(np.log(np.diag(factor))) - 5 * LOG_2PI


def _info(title: str, *shape: int, value_range: str = "reals") -> Info:
    return Info(
        title, shape, value_range, "drawn from its density", f"train {NUM_TRAIN} / test {NUM_TEST}, drawn"
    )


SYNTHETIC = {
    "circle": Synthetic(_info("unit circle in the plane, noise 0.05", 2), _circle, _circle_log_prob),
    "swissroll": Synthetic(_info("spiral in the plane, noise 0.05", 2), SWISSROLL.sample, SWISSROLL.log_prob),
    "swissroll_lae": Synthetic(
        _info("wider spiral of two turns, noise 0.2", 2), SWISSROLL_LAE.sample, SWISSROLL_LAE.log_prob
    ),
    "banana": Synthetic(_info("32-D rotated Rosenbrock density", 32), _banana, _banana_log_prob),
    "lognormal4": Synthetic(
        _info("four standard log-normals, entropy 5.6758 nats", 4, value_range="positive reals"),
        _lognormal,
        _lognormal_log_prob,
    ),
    "linear_gaussian": Synthetic(
        _info("3 Gaussian factors in 10-D, noise 0.3", 10), _linear_gaussian, _linear_gaussian_log_prob
    ),
    "waves": Synthetic(
        _info("sine waves of 32 steps, any phase and amplitude, noise 0.1", 32, 1), WAVES.sample, WAVES.log_prob
    ),
}


def draw(name: str, seed: int = 0) -> Raw:
    """Returns the training and test rows of a synthetic set, float32, drawn with `seed`."""
    density = SYNTHETIC[name]
    rows = density.sample(np.random.default_rng(seed), NUM_TRAIN + NUM_TEST).astype(np.float32)
    return Raw(
        ArrayRows(rows[:NUM_TRAIN]),
        None,
        ArrayRows(rows[NUM_TRAIN:]),
        None,
        source=f"drawn with seed {seed}",
        log_prob=density.log_prob,
    )
