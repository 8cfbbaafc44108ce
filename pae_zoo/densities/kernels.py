"""Densities with a Student t at every row of the data: of one width, or each of the shape of its neighbours."""

from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable
from sklearn.neighbors import NearestNeighbors

from pae_zoo.core.errors import UserError
from pae_zoo.densities.mixture import by_rows

DOF = 4.0


class _Kernels(keras.layers.Layer):
    """What both densities share: J components of equal weight and dof 4, whose widths are all multiplied by h.

    Args:
      num_dims: d.
      num_rows: J; 0 leaves it to `fit`.
    """

    #: multiples of the first width among which held-out data choose
    WIDTHS: tuple[float, ...] = ()

    def __init__(self, num_dims: int, num_rows: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_dims, self.num_rows = int(num_dims), int(num_rows)
        if self.num_dims < 1 or self.num_rows < 0:
            raise UserError("A density of kernels has 1 or more dimensions, and 0 or more rows (0: those it is fitted "
                            f"to); received num_dims={num_dims}, num_rows={num_rows}.")
        if self.num_rows:
            self.build((None, self.num_dims))

    def build(self, input_shape: Any = None) -> None:
        if self.built or not self.num_rows:
            return
        self.make_weights()
        self.width = self.add_weight(shape=(), initializer="ones", trainable=False, name="width")
        self.built = True

    def make_weights(self) -> None:
        """Makes the weights of the components."""
        raise NotImplementedError

    def make(self, num_rows: int) -> None:
        """Makes the weights for so many rows; raises UserError where there are others."""
        if self.num_rows not in (0, num_rows):
            raise UserError(f"This density has {self.num_rows} rows; received {num_rows}.")
        self.num_rows = num_rows
        self.build((None, self.num_dims))

    def distances(self, z: tf.Tensor) -> tf.Tensor:
        """Returns squared distances (n, J) of rows z (n, d), in units of the components' own widths."""
        raise NotImplementedError

    def log_volumes(self) -> tf.Tensor:
        """Returns the logs of the determinants of the components' widths, (J,) or (1,)."""
        raise NotImplementedError

    def log_prob(self, z: Any) -> tf.Tensor:
        """Returns log p(z) in nats, (..., d) -> (...)."""
        return self.log_probs(z, [1.0])[..., 0]

    def call(self, z: tf.Tensor) -> tf.Tensor:
        return self.log_prob(z)

    def log_probs(self, z: Any, widths: Any) -> tf.Tensor:
        """Returns log p(z) with all widths multiplied by each of `widths` (G,), (..., d) -> (..., G)."""
        if not self.built:
            raise UserError("The density is not fitted yet. Call fit first.")
        z = tf.convert_to_tensor(z)
        factors = tf.convert_to_tensor(widths, z.dtype) * tf.cast(self.width, z.dtype)
        half, size = 0.5 * (DOF + self.num_dims), float(self.num_dims)
        constant = (tf.math.lgamma(tf.constant(half, z.dtype)) - tf.math.lgamma(tf.constant(0.5 * DOF, z.dtype))
                    - 0.5 * size * np.log(DOF * np.pi) - np.log(self.num_rows))

        def rows(part: tf.Tensor) -> tf.Tensor:
            delta, volumes = self.distances(part), tf.cast(self.log_volumes(), z.dtype)

            def one(factor: tf.Tensor) -> tf.Tensor:
                terms = -volumes - half * tf.math.log1p(delta / (DOF * factor**2))
                return tf.reduce_logsumexp(terms, axis=-1) - size * tf.math.log(factor)

            return tf.stack([one(factor) for factor in tf.unstack(factors)], axis=-1)

        return constant + by_rows(rows, z, self.num_dims, self.values_of_a_row(), (factors.shape[0],))

    def values_of_a_row(self) -> int:
        """Returns how many values the distances of one row need at a time, over d."""
        return -(-4 * self.num_rows // self.num_dims)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_dims": self.num_dims, "num_rows": self.num_rows}


@register_keras_serializable("pae_zoo")
class KernelDensity(_Kernels):
    """p(z) = mean_j t_4(z; z_j, h^2 I): a Student t of four degrees of freedom and one width at each row.

    Examples:
      >>> import numpy as np
      >>> density = KernelDensity(2)
      >>> density.fit(np.random.default_rng(0).normal(size=(50, 2)).astype("float32"))
      >>> density.log_prob([[0.0, 0.0]]).shape
      TensorShape([1])
    """

    WIDTHS = tuple(np.geomspace(0.1, 2.0, 9))

    def make_weights(self) -> None:
        shape = (self.num_rows, self.num_dims)
        self.rows = self.add_weight(shape=shape, initializer="zeros", trainable=False, name="rows")

    def fit(self, z: np.ndarray) -> None:
        """Puts a kernel at each row of z (n, d); h is the median distance to the five nearest others.

        It is the root of the mean squared distance to them, plus 0.01 standard deviations of a column, so that rows
        that repeat keep a width.
        """
        z = np.asarray(z)
        self.make(len(z))
        self.rows.assign(z)
        self.width.assign(typical_distance(z))

    def distances(self, z: tf.Tensor) -> tf.Tensor:
        rows = tf.cast(self.rows.value, z.dtype)
        squares = tf.reduce_sum(z**2, axis=-1)[:, None] + tf.reduce_sum(rows**2, axis=-1)
        # NaN stays: the maximum with 0 is for rounding alone.
        return tf.maximum(squares - 2.0 * tf.matmul(z, rows, transpose_b=True), 0.0)

    def log_volumes(self) -> tf.Tensor:
        return tf.zeros((1,))


@register_keras_serializable("pae_zoo")
class LocalMixture(_Kernels):
    """p(z) = mean_j t_4(z; z_j, h^2 diag(S_j, s_j^2 I)): at each row a Student t of the shape of its neighbours.

    S_j = 0.7 S + (0.3 tr(S) / D + 1e-4) I with S the second moment of the differences to the 20 nearest rows in the
    first D dimensions; s_j^2 is the mean square of the differences in the others.

    Args:
      num_dims, num_rows: as in `KernelDensity`.
      num_leading: D; None takes 40, or all where there are fewer.
    """

    WIDTHS = tuple(np.geomspace(0.3, 2.5, 6))

    def __init__(self, num_dims: int, num_rows: int = 0, num_leading: Optional[int] = None, **kwargs: Any) -> None:
        self.num_leading = min(int(num_dims), 40) if num_leading is None else int(num_leading)
        super().__init__(num_dims, num_rows, **kwargs)

    def make_weights(self) -> None:
        count, size = self.num_rows, self.num_leading
        for name, shape in (("rows", (count, self.num_dims)), ("factors", (count, size, size)), ("log_det", (count,)),
                            ("rest", (count,))):
            setattr(self, name, self.add_weight(shape=shape, initializer="zeros", trainable=False, name=name))

    def fit(self, z: np.ndarray, at: Optional[np.ndarray] = None, neighbours: int = 20) -> None:
        """Puts a component at each of the rows `at` (J, d) of z (n, d), None for all, as its neighbours in z lie."""
        z = np.asarray(z, np.float64)
        at = z if at is None else np.asarray(at, np.float64)
        size, count = self.num_leading, min(neighbours, len(z) - 1)
        found = np.zeros((len(at), 0), int)
        if count:
            found = NearestNeighbors(n_neighbors=count + 1).fit(z).kneighbors(at, return_distance=False)[:, 1:]
        away = z[found] - at[:, None]
        lead = away[..., :size]
        second = np.einsum("jkd,jke->jde", lead, lead) / max(count, 1)
        spread = 0.3 * np.trace(second, axis1=1, axis2=2) / size + 1e-4
        scales = 0.7 * second + spread[:, None, None] * np.eye(size)
        lower = np.linalg.cholesky(scales)
        rest = np.full(len(at), 1e-4)
        if size < self.num_dims:
            rest = rest + np.mean(away[..., size:] ** 2, axis=(1, 2)) if count else rest
        self.make(len(at))
        self.rows.assign(at)
        self.factors.assign(np.linalg.inv(lower))
        self.log_det.assign(np.sum(np.log(np.diagonal(lower, axis1=1, axis2=2)), axis=1))
        self.rest.assign(rest)
        self.width.assign(1.0)

    def distances(self, z: tf.Tensor) -> tf.Tensor:
        size = self.num_leading
        rows, factors = tf.cast(self.rows.value, z.dtype), tf.cast(self.factors.value, z.dtype)
        offset = tf.reshape(tf.linalg.matvec(factors, rows[:, :size]), [-1])
        scaled = tf.matmul(z[:, :size], tf.reshape(factors, (-1, size)), transpose_b=True) - offset
        found = tf.reduce_sum(tf.square(tf.reshape(scaled, (-1, self.num_rows, size))), axis=-1)
        if size < self.num_dims:
            left, others = z[:, size:], rows[:, size:]
            squares = tf.reduce_sum(left**2, axis=-1)[:, None] + tf.reduce_sum(others**2, axis=-1)
            away = tf.maximum(squares - 2.0 * tf.matmul(left, others, transpose_b=True), 0.0)
            found += away / tf.cast(self.rest.value, z.dtype)
        return found

    def log_volumes(self) -> tf.Tensor:
        return self.log_det + 0.5 * (self.num_dims - self.num_leading) * tf.math.log(self.rest)

    def values_of_a_row(self) -> int:
        return -(-self.num_rows * (self.num_leading + 4) // self.num_dims)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_leading": self.num_leading}


def typical_distance(z: np.ndarray, neighbours: int = 5) -> float:
    """Returns the median over rows z (n, d) of the root mean squared distance to the nearest others, above 0."""
    count = min(neighbours, len(z) - 1)
    square = np.zeros(len(z))
    if count:
        square = np.mean(NearestNeighbors(n_neighbors=count).fit(z).kneighbors()[0] ** 2, axis=1)
    return float(np.median(np.sqrt(square + 1e-4 * z.shape[1])))
