"""A precision of every output value as a sum of radial basis functions of the latents, fitted to codes."""

import math
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo.core import inputs, seeds, trainable
from pae_zoo.core.errors import UserError

RECIPES = PUBLISHED, STURDY, RELEASED = ("published", "sturdy", "released")
# Stream of the weights that the recipe "released" starts from.
START = "rbf_precision/start"
# Added to 1/beta: the border pixels of images have no residual at all, and std would fall to 0 there.
VARIANCE_FLOOR = 1e-4
# Least weight of the recipe "sturdy", and what its bandwidths and its floor are made of.
LEAST_WEIGHT, WIDENING, FAR_STDS = 1e-5, 1.25, 1000.0


class RBFPrecision(trainable.Trainable):
    """beta(z) = W v(z) + zeta, v_k(z) = exp(-lambda_k |z - c_k|^2), with W > 0 (Arvanitidis et al., ICLR 2018, sec. 4).

    The variance is 1/beta + 1e-4. Far from all centres it is 1/zeta. It trains on rows (z, target), as `adapt` does,
    which sets centres by k-means, bandwidths, and W to start from. Recipes:

        published  target r^2, the squared residuals of the decoder's mean. lambda_k = 1/2 (alpha mean_k |z - c_k|)^-2;
                   W starts as 1 / (mean_k r^2 + 1e-3) and minimises 1/2 sum_p [r_p^2 / sigma_p^2 + log sigma_p^2]
        sturdy     target log s^2, the log-variance of a decoder that gives one. lambda_k = 1/2 (1.25 s_k)^-2, s_k the
                   least std over axes of cluster k; zeta = (1000 mean s)^-2; W >= 1e-5 starts as the cluster's mean
                   precision and minimises the squared error of log sigma^2 (the author's later code)
        released   target r^2, at draws of q(z|x) for z. What the code of Syrota et al., arXiv 2408.07507, does, faults
                   included: lambda_k = 1/2 (alpha mean_k |z - c_k|^2)^-2 from one start of k-means; W = softplus(raw)
                   with raw from softplus(N(0, 1)), so about 1.2, which minimises 1/2 sum_p [r_p^2 exp(-1/beta_p) +
                   1/beta_p], 1/beta taken for a log-variance

    A cluster without spread, such as one of a single code, takes the spread of all codes about their centres; adapt
    says so in a line, and `num_alone` keeps their number.

    Args: latent_dim K, num_values D, num_centres, alpha, floor (zeta), recipe, seed (of k-means too).
    """

    tracked = ("error",)

    def __init__(self, latent_dim: int, num_values: int, num_centres: int = 10, alpha: float = 1.0, floor: float = 0.1,
                 recipe: str = PUBLISHED, seed: int = 0, **kwargs):
        super().__init__(seed=seed, dtype="float32", **kwargs)
        if recipe not in RECIPES:
            raise UserError(f"The recipe is one of {', '.join(RECIPES)}; received {recipe!r}.")
        if num_centres < 1 or alpha <= 0 or floor <= 0:
            raise UserError("There is at least one centre, and alpha and floor are above 0; received "
                            f"num_centres={num_centres}, alpha={alpha}, floor={floor}.")
        self.latent_dim, self.num_values, self.num_centres = int(latent_dim), int(num_values), int(num_centres)
        self.alpha, self.recipe = float(alpha), recipe
        self.log_weights = self.add_weight(
            name="log_weights", shape=(self.num_centres, self.num_values), initializer="zeros",
            autocast=False)  # in full precision also inside of a model of half precision

        def state(name, shape, start):
            return self.add_weight(name=name, shape=shape, initializer=start, trainable=False, autocast=False)

        self.centres = state("centres", (self.num_centres, self.latent_dim), "zeros")
        self.bandwidths = state("bandwidths", (self.num_centres,), "ones")
        self.floor = state("floor", (), lambda shape, dtype: tf.cast(floor, dtype))
        self.fitted = state("fitted", (), "zeros")
        self.num_alone = state("num_alone", (), "zeros")
        self.event_shape = (self.latent_dim + self.num_values,)
        self.built = True

    # ---- the field ---------------------------------------------------------------------------------

    def precision(self, z: tf.Tensor) -> tf.Tensor:
        """Returns beta(z) for z (..., K), shape (..., D)."""
        z = inputs.ending(tf.cast(z, tf.float32), (self.latent_dim,), "z")
        square = tf.reduce_sum(tf.square(z[..., None, :] - self.centres.value), axis=-1)
        basis = tf.exp(-self.bandwidths.value * square)
        return tf.tensordot(basis, self.weights_now(), 1) + self.floor.value

    def weights_now(self) -> tf.Tensor:
        """Returns W as it stands, (centres, D)."""
        raw = tf.convert_to_tensor(self.log_weights)
        if self.recipe == RELEASED:
            return tf.math.softplus(raw)
        return tf.exp(tf.maximum(raw, math.log(LEAST_WEIGHT)) if self.recipe == STURDY else raw)

    def variance(self, z: tf.Tensor) -> tf.Tensor:
        """Returns 1/beta(z) + 1e-4 for z (..., K), shape (..., D)."""
        return 1.0 / self.precision(z) + VARIANCE_FLOOR

    # ---- fitting -----------------------------------------------------------------------------------

    def objective(self, x: tf.Tensor, seed: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        z, target = x[:, : self.latent_dim], x[:, self.latent_dim :]
        variance = self.variance(z)
        log_variance = tf.math.log(variance)
        if self.recipe == RELEASED:
            wrong = 1.0 / self.precision(z)
            error = 0.5 * tf.reduce_sum(target * tf.exp(-wrong) + wrong, axis=-1)
        elif self.recipe == PUBLISHED:
            error = 0.5 * tf.reduce_sum(target / variance + log_variance, axis=-1)
        else:
            error = tf.reduce_sum(tf.square(log_variance - target), axis=-1)
        return {"loss": error, "error": error}

    def adapt(self, x: np.ndarray) -> None:
        """Sets centres, bandwidths, zeta and the weights to start from, from rows (n, K + D); raises UserError."""
        z, target = np.asarray(x[:, : self.latent_dim], np.float64), x[:, self.latent_dim :]
        if len(z) < self.num_centres:
            raise UserError(f"{len(z)} codes cannot make {self.num_centres} clusters. Take --rbf_centres of at most "
                            "that, or more data.")
        centres, labels = k_means(z, self.num_centres, self.seed, starts=1 if self.recipe == RELEASED else 10)
        spreads = self._spreads(z, centres, labels)
        widening = WIDENING if self.recipe == STURDY else self.alpha
        members = [target[labels == k] if np.any(labels == k) else target for k in range(self.num_centres)]
        if self.recipe == PUBLISHED:
            start = np.log([1.0 / (rows.mean(0, dtype=np.float64) + 1e-3) for rows in members])
        elif self.recipe == RELEASED:
            noise = seeds.normal(self.log_weights.shape, seeds.stream(self.seed & 0x7FFFFFFF, START), tf.float32)
            start = tf.math.softplus(noise)
        else:
            std = np.exp(0.5 * target.astype(np.float64)).mean()
            self.floor.assign((FAR_STDS * std) ** -2)
            start = np.log([np.exp(-rows.astype(np.float64)).mean(0) for rows in members])
        self.centres.assign(centres)
        self.bandwidths.assign(0.5 * (widening * spreads) ** -2)
        self.log_weights.assign(start)
        self.fitted.assign(1.0)
        super().adapt(x)

    def _spreads(self, z: np.ndarray, centres: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns the spread of each cluster, that of all codes about their centres where it has none, (centres,)."""

        def spread(residuals: np.ndarray) -> float:
            if self.recipe == RELEASED:
                return float(np.square(residuals).sum(axis=1).mean())
            if self.recipe == PUBLISHED:
                return float(np.linalg.norm(residuals, axis=1).mean())
            return float(residuals.std(axis=0).min())

        residuals = z - centres[labels]
        everywhere = spread(residuals) or spread(z - z.mean(axis=0))
        if not everywhere > 0:
            raise UserError("The codes of the training data do not vary, so no bandwidth follows from them. The first "
                            "stage has collapsed: lower --beta or raise --learning_rate, in a new --workdir.")
        found = np.array([spread(residuals[labels == k]) if np.any(labels == k) else 0.0 for k in range(len(centres))])
        alone = ~(found > 0)
        self.num_alone.assign(float(alone.sum()))
        if alone.any():
            print(f"rbf: {int(alone.sum())} of {len(centres)} clusters have no spread of their own, such as those of a "
                  "single code; they take the bandwidth of all codes", flush=True)
        return np.where(alone, everywhere, found)

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError("RBFPrecision is saved as a part of its model.")


def k_means(z: np.ndarray, num: int, seed: int, starts: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Returns centres (num, K) and the cluster of each of z (n, K), (n,), by scikit-learn's k-means."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # equal codes: fewer clusters than asked, told by adapt
        options: dict[str, Any] = dict(n_init=starts, random_state=seed)
        found = KMeans(num, **options).fit(z)
    return np.asarray(found.cluster_centers_), np.asarray(found.labels_)


def rows(z: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns (z, target) side by side, (n, K + D) float32."""
    return np.concatenate([z, target.reshape(len(z), -1)], axis=1).astype(np.float32)


