"""A mixture of Student t or of Gaussians with full covariances: a density, and what a flow can start from."""

from typing import Any, Callable, Optional

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from keras.saving import register_keras_serializable

from pae_zoo.core import inputs, seeds
from pae_zoo.core import labels as labels_lib
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError
from pae_zoo.densities import by_label, choice
from pae_zoo.densities.parameters import LEAST_DOF, MOST_DOF, START_DOF, Parameters, component_log_prob

# Values of one (rows, components, dimensions) array that is held at a time.
MOST_VALUES = 2**26


def by_rows(function: Callable[[tf.Tensor], tf.Tensor], u: tf.Tensor, num_dims: int, num_components: int,
            ending: tuple[int, ...]) -> tf.Tensor:
    """Applies function: (n, D) -> (n, *ending), M values a number, to u (..., D); many rows go a part at a time."""
    u = inputs.ending(tf.convert_to_tensor(u), (num_dims,), "u")
    leading, num = u.shape[:-1], u.shape[:-1].num_elements()
    rows = tf.reshape(u, (-1, num_dims))
    most = max(1, MOST_VALUES // (num_components * num_dims))
    if num is None or num <= most:
        found = function(rows)
    else:
        parts = -(-num // most)
        padded = tf.pad(rows, [[0, parts * most - num], [0, 0]])
        found = tf.map_fn(function, tf.reshape(padded, (parts, most, num_dims)))
        found = tf.reshape(found, (parts * most, *ending))[:num]
    shape = leading.as_list() if leading.is_fully_defined() else tf.unstack(tf.shape(u)[:-1])
    return tf.reshape(found, (*shape, *ending))


@register_keras_serializable("pae_zoo")
class Mixture(by_label.ByLabel, keras.layers.Layer):
    """p(u) = sum_m w_m t(u; mu_m, S_m, v_m), or with `student=False` the mixture of Gaussians N(mu_m, S_m).

    `fit` sets it by EM (Peel & McLachlan 2000); gradients reach all of it. Before that a mixture whose number of
    components is left to `fit` is N(0, I).

    Args:
      num_dims: D.
      num_components: M; 0 leaves it to `fit`, which chooses it on validation data.
      student: whether components are Student t, dof between 4 and 200.
      seed: of the start of EM, and of the first means of a mixture that is not fitted.
      num_labels: C of a mixture whose components belong to labels, as many to each (`ByLabel`); 0: they belong to none.

    Raises UserError for a number of dimensions below 1 or of components below 0, or that labels do not divide.
    """

    #: columns of the factors behind each scale matrix; 0: it is whole
    num_factors = 0

    def __init__(self, num_dims: int, num_components: int = 0, student: bool = True, seed: int = 0,
                 num_labels: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_dims, self.num_components = int(num_dims), int(num_components)
        self.student, self.seed, self.num_labels = bool(student), int(seed), int(num_labels)
        if self.num_dims < 1 or self.num_components < 0:
            raise UserError("A mixture has 1 or more dimensions and components (0: chosen in fitting); received "
                            f"num_dims={num_dims}, num_components={num_components}.")
        if self.num_labels < 0 or self.num_labels and self.num_components % self.num_labels:
            raise UserError(f"Each of the {num_labels} labels has as many components; received num_components="
                            f"{num_components}. Take a multiple, or 0.")
        if self.num_components:
            self.build((None, self.num_dims))

    @property
    def fitted_components(self) -> int:
        """The number of components there are, 0 before `fit` has chosen it."""
        return self.num_components if self.built else 0

    def build(self, input_shape: Any = None) -> None:
        if self.built or not self.num_components:
            return
        count, size = self.num_components, self.num_dims

        def draw(shape, dtype=None):
            return seeds.normal(shape, seeds.stream(self.seed, "mixture/means"), tf.as_dtype(dtype or "float32"))

        self.logits = self.add_weight(shape=(count,), initializer="zeros", name="logits")
        self.means = self.add_weight(shape=(count, size), initializer=draw, name="means")
        self.make_scales(count, size)
        if self.student:
            start = keras.initializers.Constant(float(np.log(START_DOF - LEAST_DOF)))
            self.log_dof = self.add_weight(shape=(count,), initializer=start, name="log_dof")
        if self.num_labels:
            self.label_counts = self.add_weight(shape=(self.num_labels,), initializer="ones", trainable=False,
                                                name="label_counts")
        self.built = True

    def make_scales(self, count: int, size: int) -> None:
        """Makes the weights of the scale matrices."""
        # Below the diagonal the lower factor W of each precision W'W, on it the logs of the diagonal of W.
        self.packed = self.add_weight(shape=(count, size, size), initializer="zeros", name="packed")

    # ---- parameters --------------------------------------------------------------------------------

    def factors(self) -> tf.Tensor:
        """Returns the lower factors W_m of the precisions, S_m^-1 = W_m' W_m, (M, D, D)."""
        packed = tf.convert_to_tensor(self.packed)
        strict = packed - tf.linalg.band_part(packed, 0, -1)
        return strict + tf.linalg.diag(tf.exp(tf.linalg.diag_part(packed)))

    def log_weights(self) -> tf.Tensor:
        """Returns log w_m, (M,)."""
        if self.num_labels:
            return self.log_weights_by_label()
        return tf.nn.log_softmax(tf.convert_to_tensor(self.logits))

    def dof(self) -> Optional[tf.Tensor]:
        """Returns the degrees of freedom v_m, (M,); None of Gaussians."""
        if not self.student:
            return None
        return tf.minimum(LEAST_DOF + tf.exp(tf.convert_to_tensor(self.log_dof)), MOST_DOF)

    def parameters(self) -> Parameters:
        """Returns weights, means, scale matrices and dof as float64 arrays; raises UserError before `fit`."""
        self._need_components("its parameters")
        inverse = np.linalg.inv(np.asarray(self.factors(), np.float64))
        dof = self.dof()
        means = np.asarray(tf.convert_to_tensor(self.means), np.float64)
        return Parameters(np.asarray(self.log_weights(), np.float64), means,
                          inverse @ inverse.transpose(0, 2, 1), None if dof is None else np.asarray(dof, np.float64))

    def assign(self, found: Any) -> None:
        """Takes `Parameters`, and their number where it was left open; raises UserError for another number or kind."""
        count = len(found.log_weights)
        if self.fitted_components not in (0, count) or found.means.shape[1] != self.num_dims:
            raise UserError(f"This mixture has {self.num_components} components in {self.num_dims} dimensions; "
                            f"received {count} in {found.means.shape[1]}.")
        if (found.dof is not None) != self.student:
            raise UserError("Degrees of freedom belong to a mixture of Student t, and to that alone.")
        if not self.built:
            self.num_components = count
            self.build((None, self.num_dims))
        self.assign_scales(found)
        self.logits.assign(found.log_weights)
        self.means.assign(found.means)
        if found.dof is not None:
            self.log_dof.assign(np.log(np.maximum(found.dof - LEAST_DOF, 1e-2)))

    def assign_scales(self, found: Any) -> None:
        """Takes the scale matrices of parameters."""
        lower = np.linalg.inv(np.linalg.cholesky(found.scales))
        place = np.arange(self.num_dims)
        lower[:, place, place] = np.log(lower[:, place, place])
        self.packed.assign(lower)

    def fit(self, x: np.ndarray, held_out: Optional[np.ndarray] = None, weights: Optional[np.ndarray] = None,
            verbose: bool = False, labels: Optional[np.ndarray] = None,
            held_out_labels: Optional[np.ndarray] = None) -> dict[str, Any]:
        """Fits the mixture to x (n, D) by EM, its number of components too where that is left open.

        With labels the components of each are fitted to its own rows; where their number is left open, all labels get
        as many as the one that needs most.

        Args:
          held_out: validation data (m, D), on which passes and components are chosen; None holds out a fifth of x for
            the choice, and fits all of x then.
          weights: (n,), how often each row counts.
          verbose: whether a progress bar is shown.
          labels, held_out_labels: (n,) and (m,), of a mixture with labels.

        Returns what was found: components, passes, pseudo_counts, mixture_nll (of validation data, nats). Raises
        UserError for more components than rows.
        """
        if self.num_labels:
            found, report = choice.fit_labels(x, labels, held_out, held_out_labels, weights, self, verbose)
            self.assign(found)
            self.count_labels(labels, weights)
            return report
        found, report = choice.fit(x, held_out, weights, self.num_components, self.student, self.seed, verbose,
                                   self.num_factors)
        if self.built and len(found.log_weights) < self.num_components:
            found = found.padded(self.num_components)
        self.assign(found)
        return report

    # ---- density -----------------------------------------------------------------------------------

    def log_prob(self, u: tf.Tensor, label: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Returns log p(u), or log p(u|c) for labels c () or (batch,), nats, (..., D) -> (...)."""
        if not self.fitted_components:
            return -0.5 * (tf.reduce_sum(tf.square(u), axis=-1) + self.num_dims * LOG_2PI)
        if label is not None:
            return self._at_label(lambda rows, own: self.of_label(self._components(rows)[0], own), u, label, ())
        return self._on_rows(lambda rows: tf.reduce_logsumexp(self._components(rows)[0], axis=-1), u, ())

    def call(self, u: tf.Tensor) -> tf.Tensor:
        return self.log_prob(u)

    def log_joint(self, u: tf.Tensor) -> tf.Tensor:
        """Returns log p(u, c) of every label c, nats, (..., D) -> (..., C); raises UserError before `fit`."""
        self._need_components("labels")
        return self._on_rows(lambda rows: self.joint(self._components(rows)[0]), u, (self.num_labels,))

    def log_responsibilities(self, u: tf.Tensor) -> tf.Tensor:
        """Returns log p(m|u), (..., D) -> (..., M); raises UserError before `fit`."""
        self._need_components("responsibilities")
        return self._on_rows(lambda rows: tf.nn.log_softmax(self._components(rows)[0]), u, (self.num_components,))

    def precision(self, u: tf.Tensor, label: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Returns a positive definite curvature of -log p at u, or of -log p(u|c), (..., D) -> (..., D, D).

        It is sum_m p(m|u) a_m S_m^-1, a_m = (v_m + D) / (v_m + delta_m), 1 for Gaussians: the Hessian of the bound that
        EM maximises in its place.
        """
        if not self.fitted_components:
            return tf.eye(self.num_dims, batch_shape=tf.shape(u)[:-1], dtype=u.dtype)

        def weighted(rows: tf.Tensor, own: Optional[tf.Tensor] = None) -> tf.Tensor:
            logs, delta = self._components(rows)
            if own is not None:
                logs += self.label_mask(own, logs.dtype)
            share, dof = tf.nn.softmax(logs), self.dof()
            if dof is not None:
                dof = tf.cast(dof, rows.dtype)
                share *= (dof + self.num_dims) / (dof + delta)
            return self.weighted_precisions(share)

        if label is not None:
            return self._at_label(weighted, u, label, (self.num_dims, self.num_dims))
        return self._on_rows(weighted, u, (self.num_dims, self.num_dims))

    def weighted_precisions(self, share: tf.Tensor) -> tf.Tensor:
        """Returns sum_m share_m S_m^-1, (n, M) -> (n, D, D)."""
        factors = tf.cast(self.factors(), share.dtype)
        precisions = tf.reshape(tf.matmul(factors, factors, transpose_a=True), (self.num_components, -1))
        return tf.reshape(tf.matmul(share, precisions), (-1, self.num_dims, self.num_dims))

    def sample(self, num: int, seed: Any, label: Optional[tf.Tensor] = None) -> tf.Tensor:
        """Draws `num` points, (num, D), of a label () or of one for each point (num,); `seed` is a pair of integers."""
        dtype = tf.as_dtype(self.compute_dtype)
        which_seed, noise_seed, scale_seed = seeds.split(seed, 3)
        noise = seeds.normal((num, self.num_dims), noise_seed, dtype)
        if not self.fitted_components:
            return noise
        logs = self.log_weights()
        if label is not None:
            logs = tf.nn.log_softmax(logs + self.label_mask(tf.broadcast_to(label, (num,)), logs.dtype))
        edges = tf.cumsum(tf.exp(logs), axis=-1)
        uniform = seeds.uniform((num, 1), which_seed, edges.dtype) * edges[..., -1:]
        uniform = tf.maximum(uniform, np.finfo(np.float32).tiny)  # above what has no weight
        which = tf.minimum(tf.reduce_sum(tf.cast(uniform > edges, tf.int32), axis=-1), self.num_components - 1)
        away, dof = self.spread(noise, which, noise_seed), self.dof()
        if dof is not None:
            half = 0.5 * tf.gather(dof, which)
            gamma = tfp.math.igammainv(half, seeds.uniform((num,), scale_seed, dof.dtype))
            away *= tf.sqrt(half / gamma)[:, None]
        return tf.gather(tf.convert_to_tensor(self.means), which) + away

    def spread(self, noise: tf.Tensor, which: tf.Tensor, seed: Any) -> tf.Tensor:
        """Returns draws of N(0, S_m), (n, D), of components m (n,), from standard normal noise (n, D) and a seed."""
        inverse = tf.linalg.triangular_solve(
            self.factors(), tf.eye(self.num_dims, batch_shape=[self.num_components], dtype=noise.dtype))
        return tf.linalg.matvec(tf.gather(inverse, which), noise)

    def distribution(self, dtype: Any = None, label: Optional[tf.Tensor] = None) -> tfp.distributions.Distribution:
        """Returns p(u), or p(u|c), as a `tfd` distribution, event shape (D,), that has `precision`; build one per use.

        Of labels (batch,) it draws as many points, one for each.
        """
        return MixtureDistribution(self, tf.as_dtype(dtype or self.compute_dtype), label)

    def mean_and_covariance(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns E[u] (D,) and Cov[u] (D, D)."""
        if not self.fitted_components:
            return np.zeros(self.num_dims), np.eye(self.num_dims)
        return self.parameters().mean_and_covariance()

    def _components(self, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns log w_m + log p_m(u) and the squared distances, each (n, M), of rows u (n, D)."""
        (delta, log_det), dof = self.distances(u), self.dof()
        dof = None if dof is None else tf.cast(dof, u.dtype)
        return component_log_prob(delta, log_det, tf.cast(self.log_weights(), u.dtype), dof, self.num_dims), delta

    def distances(self, u: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the squared distances (n, M) of rows u (n, D), and log|S_m|^(-1/2), (M,)."""
        factors, means = tf.cast(self.factors(), u.dtype), tf.cast(self.means.value, u.dtype)
        stacked = tf.reshape(factors, (-1, self.num_dims))
        offset = tf.reshape(tf.linalg.matvec(factors, means), [-1])
        scaled = tf.matmul(u, stacked, transpose_b=True) - offset
        delta = tf.reduce_sum(tf.square(tf.reshape(scaled, (-1, self.num_components, self.num_dims))), axis=-1)
        return delta, tf.cast(tf.reduce_sum(tf.linalg.diag_part(self.packed.value), axis=-1), u.dtype)

    def _at_label(self, function: Any, u: tf.Tensor, label: tf.Tensor, ending: tuple[int, ...]) -> tf.Tensor:
        u = inputs.ending(tf.convert_to_tensor(u), (self.num_dims,), "u")
        # Beside its row, so that many rows go a part at a time with their labels.
        joined = tf.concat([u, tf.cast(labels_lib.beside(label, u), u.dtype)[..., None]], axis=-1)

        def parted(rows: tf.Tensor) -> tf.Tensor:
            return function(rows[:, :-1], tf.cast(rows[:, -1], tf.int32))

        width = max(self.num_factors, 1) if len(ending) > 1 else 1
        return by_rows(parted, joined, self.num_dims + 1, self.num_components * width, ending)

    def _on_rows(self, function: Any, u: tf.Tensor, ending: tuple[int, ...]) -> tf.Tensor:
        # A matrix for each row is made of all columns of all factors.
        width = max(self.num_factors, 1) if len(ending) > 1 else 1
        return by_rows(function, u, self.num_dims, self.num_components * width, ending)

    def _need_components(self, what: str) -> None:
        if not self.fitted_components:
            raise UserError(f"The mixture is not fitted: it has no {what.removeprefix('its ')} yet. Call fit first.")

    def get_config(self) -> dict[str, Any]:
        own = ("num_dims", "num_components", "student", "seed", *(["num_labels"] if self.num_labels else []))
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


class MixtureDistribution(tfp.distributions.Distribution):
    """A `Mixture` as a distribution; its draws come from `pae_zoo.core.seeds`."""

    def __init__(self, mixture: Mixture, dtype: tf.DType, label: Optional[tf.Tensor] = None, name: str = "Mixture"):
        self.mixture, self.label = mixture, label
        super().__init__(
            dtype=dtype, reparameterization_type=tfp.distributions.NOT_REPARAMETERIZED, validate_args=False,
            allow_nan_stats=True, parameters=dict(mixture=mixture, dtype=dtype, label=label), name=name)

    @classmethod
    def _parameter_properties(cls, dtype: Any, num_classes: Any = None) -> dict[str, Any]:
        return {}

    def precision(self, u: tf.Tensor) -> tf.Tensor:
        """Returns `Mixture.precision`, (..., D) -> (..., D, D)."""
        return self.mixture.precision(u, self.label)

    def _event_shape(self) -> tf.TensorShape:
        return tf.TensorShape([self.mixture.num_dims])

    def _event_shape_tensor(self) -> tf.Tensor:
        return tf.constant([self.mixture.num_dims])

    def _batch_shape(self) -> tf.TensorShape:
        return tf.TensorShape([])

    def _batch_shape_tensor(self) -> tf.Tensor:
        return tf.constant([], tf.int32)

    def _sample_n(self, n: Any, seed: Any = None) -> tf.Tensor:
        return tf.cast(self.mixture.sample(n, seeds.as_seed(seed), self.label), self.dtype)

    def _log_prob(self, value: tf.Tensor) -> tf.Tensor:
        return self.mixture.log_prob(value, self.label)

    def _mean(self) -> tf.Tensor:
        return tf.constant(self._moments()[0], self.dtype)

    def _covariance(self) -> tf.Tensor:
        return tf.constant(self._moments()[1], self.dtype)

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        if self.label is None:
            return self.mixture.mean_and_covariance()
        if self.label.shape.rank:
            raise NotImplementedError("Moments are those of one label; this is of one for each datum.")
        return self.mixture.parameters().of_label(int(self.label), self.mixture.per_label).mean_and_covariance()

    def _variance(self) -> tf.Tensor:
        return tf.linalg.diag_part(self._covariance())

    def _stddev(self) -> tf.Tensor:
        return tf.sqrt(self._variance())
