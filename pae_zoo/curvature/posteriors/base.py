"""What all Gaussian posteriors over weights share: scales, samples, evidence, files."""

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional, Sequence, Union

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import cholesky, files, reading, seeds
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.core.inputs import TensorLike
from pae_zoo.curvature.network.graph import ALL, Graph, read
from pae_zoo.curvature.network.layout import Layout, Source
from pae_zoo.curvature.posteriors import evidence

# Explicit matrices above this are refused, in MiB.
MEMORY = 2048
# Values that are left to the noise, as a share of all, below which its variance is not trusted.
LEFT = 0.01
_CLASSES: dict[str, type] = {}


class WeightPosterior(keras.layers.Layer):
    """q(theta) = N(mean, Lambda^-1) over the weights of a network, Lambda = kappa G / sigma^2 + gamma I exactly.

    G is a curvature summed over the data, with sigma = 1, as `ggn` gives it; gamma holds one prior precision for each
    layer that the posterior is over. Weights of other layers stay at their mean. All of it are non-trainable weights,
    so that saving a model saves its posterior. Flat vectors are in the order of the network's trainable weights: of
    all of them, (P,), or of the chosen layers, (P_c,). Daxberger et al., arXiv 2106.14806.

    Args:
      layout: a built model, a sequence of models applied in turn, their `Graph`, a `Layout` or a list of block sizes.
        Of models the mean starts as the weights they have; else as 0.
      layers: which layers the posterior is over: all, encoder, decoder, last, or names.
      dtype: of weights and samples; by default the variables' of the Keras policy, float32.
    """

    structure = ""
    #: whether no two layers are correlated, so that there is `whiten_part`
    is_separate = True
    #: whether `moments` are known of dense layers
    has_moments = False

    def __init__(self, layout: Source, layers: Union[str, Sequence[str]] = ALL, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", keras.config.dtype_policy().variable_dtype)
        kwargs.setdefault("trainable", False)
        super().__init__(autocast=False, **kwargs)
        self.layout = Layout.of(layout, layers)
        self.mean = self._weight("mean", (self.layout.size,))
        self.prior_precision = self._weight("prior_precision", (len(self.layout.sizes),), "ones")
        self.noise_variance = self._weight("noise_variance", (), "ones")
        self.kappa = self._weight("kappa", (), "ones")
        self._ratio: Optional[TensorLike] = None
        self._make()
        self.built = True
        variables = variables_of(layout)
        if variables:
            self.assign_mean(variables)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _CLASSES[cls.__name__] = cls

    # ---- what a structure defines ------------------------------------------------------------------

    def _make(self) -> None:
        """Adds the weights that hold the curvature."""
        raise NotImplementedError(f"{type(self).__name__} defines no curvature.")

    def assign_curvature(self, curvature: Any) -> None:
        """Sets G from the result of `ggn` with this structure, summed over the data set; raises UserError."""
        raise NotImplementedError(f"{type(self).__name__} takes no curvature.")

    def prepare(self) -> list[tf.Tensor]:
        """Returns what samples and solves need of Lambda: computed once, outside a loop over samples."""
        raise NotImplementedError(f"{type(self).__name__} defines no root of its covariance.")

    def root(self, noise: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        """Returns R noise for noise (n, P_c) and R R^T = Lambda^-1."""
        raise NotImplementedError(f"{type(self).__name__} defines no root of its covariance.")

    def whiten(self, rows: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        """Returns R^T rows for rows (n, P_c), so that rows Lambda^-1 rows^T is its Gram matrix."""
        raise NotImplementedError(f"{type(self).__name__} defines no root of its covariance.")

    def whiten_part(self, number: int, rows: tf.Tensor, prepared: list[tf.Tensor]) -> tf.Tensor:
        """Returns what `whiten` does to rows (n, P_l) over chosen layer `number` alone."""
        raise NotImplementedError(f"{type(self).__name__} correlates its layers.")

    def moments(self, number: int, seen: tf.Tensor, prepared: list[tf.Tensor]) -> Optional[tuple]:
        """Returns (T (n, n_out), V (n_out, n_out) or None for I), or None where it is not known.

        With them row^T Lambda_l^-1 row' = sum_j T_j (V^T d)_j (V^T d')_j for rows a d^T and a d'^T of a dense layer, a
        being `seen` (n, n_in), the inputs with a 1 for the bias.
        """

    def variances(self, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        """Returns the diagonal of Lambda^-1, (P_c,)."""
        raise NotImplementedError(f"{type(self).__name__} defines no variances.")

    def precision(self) -> Any:
        """Returns Lambda itself: its diagonal (P_c,), or a list of matrices, refused where they are too large."""
        raise NotImplementedError(f"{type(self).__name__} defines no precision.")

    def spectrum(self) -> evidence.Spectrum:
        """Returns the eigenvalues of G by block, for the evidence."""
        raise NotImplementedError(f"{type(self).__name__} defines no spectrum.")

    def _faults(self, state: dict[str, np.ndarray]) -> Optional[str]:
        """Returns what makes a loaded curvature no curvature, or None."""

    # ---- scales and mean ---------------------------------------------------------------------------

    def assign_mean(self, values: Any) -> None:
        """Sets the mean from a flat vector (P,) or a tensor for each weight of the network; raises UserError."""
        if isinstance(values, (list, tuple)):
            values = tf.concat([tf.reshape(tf.cast(value, self.mean.dtype), (-1,)) for value in values], axis=0)
        if values.shape != (self.layout.size,):
            raise UserError(f"The mean has {self.layout.size} values, one for each weight; received shape "
                            f"{tuple(values.shape)}.")
        self.mean.assign(tf.cast(values, self.mean.dtype))

    def assign_scales(self, prior_precision: Optional[TensorLike] = None, noise_variance: Optional[TensorLike] = None,
                      kappa: Optional[TensorLike] = None) -> None:
        """Sets gamma (one number, or one for each chosen layer), sigma^2 and kappa, each unless None.

        Raises UserError unless they are finite and positive, where they are known when it is called.
        """
        given = ((self.prior_precision, prior_precision), (self.noise_variance, noise_variance), (self.kappa, kappa))
        for weight, value in given:
            if value is None:
                continue
            name = weight.name
            # Numbers go to the weights' precision at once, not by way of float32.
            value = tf.cast(value, weight.dtype) if tf.is_tensor(value) else tf.convert_to_tensor(value, weight.dtype)
            if value.shape.rank and value.shape != weight.shape:
                allowed = f"one number or {weight.shape[0]}" if weight.shape else "one number"
                raise UserError(f"{name} is {allowed}; received shape {tuple(value.shape)}.")
            if tf.executing_eagerly() and not _positive(value.numpy()):
                raise UserError(f"{name} must be finite and above 0; received {value.numpy().tolist()}.")
            weight.assign(tf.broadcast_to(value, weight.shape))

    def scale(self, dtype: Optional[tf.DType] = None) -> tf.Tensor:
        """Returns kappa / sigma^2, by which G is multiplied, or the ratio of `at_ratio`."""
        if self._ratio is not None:
            return tf.cast(self._ratio, dtype or self.kappa.dtype)
        kappa, variance = tf.convert_to_tensor(self.kappa), tf.convert_to_tensor(self.noise_variance)
        return tf.cast(kappa, dtype or kappa.dtype) / tf.cast(variance, dtype or kappa.dtype)

    def priors(self, dtype: Optional[tf.DType] = None) -> list[tf.Tensor]:
        """Returns gamma of each chosen layer, scalars; 1 inside `at_ratio`."""
        if self._ratio is not None:
            return [tf.ones((), dtype or self.prior_precision.dtype)] * len(self.layout.sizes)
        return tf.unstack(tf.cast(tf.convert_to_tensor(self.prior_precision), dtype or self.prior_precision.dtype))

    @contextlib.contextmanager
    def at_ratio(self, ratio: TensorLike) -> Iterator[None]:
        """Inside, Lambda is ratio G + I, whatever the scales.

        Variances J Lambda^-1 J^T depend, up to a factor, on no more than the ratio of curvature to prior precision.
        Raises UserError unless the ratio is finite and above 0, where it is known.
        """
        if not tf.is_tensor(ratio) and not _positive(np.asarray(ratio, np.float64)):
            raise UserError(f"The ratio of curvature to prior precision must be finite and above 0; received {ratio}.")
        self._ratio = ratio
        try:
            yield
        finally:
            self._ratio = None

    # ---- samples -----------------------------------------------------------------------------------

    def sample(self, num: int, seed: seeds.Seed, first: int = 0) -> tf.Tensor:
        """Returns weights (num, P), stateless: sample s is `sample_one(fold_in(seed, s))`, s counted from `first`."""
        prepared = self.prepare()
        numbers = tf.range(first, first + num)
        noise = _noise_of(seeds.as_seed(seed), numbers, self.layout.num_chosen, tf.as_dtype(self.mean.dtype))
        mean = tf.convert_to_tensor(self.mean)
        deviations = tf.split(self.root(noise, prepared), self.layout.sizes, axis=-1)
        return self.layout.fill([one + part for one, part in zip(self.layout.pick(mean), deviations)], mean)

    def sample_one(self, seed: seeds.Seed, prepared: Optional[list[tf.Tensor]] = None,
                   mean: Optional[Sequence[tf.Tensor]] = None) -> list[tf.Tensor]:
        """Returns one draw of the weights as a tensor for each variable of the network, in order.

        Args:
          seed: pair of integers; the draw depends on it alone.
          prepared: of `prepare()`, to save its work in a loop.
          mean: tensors to take for the mean; the derivative of the draw by them is the identity.
        """
        noise = seeds.normal((1, self.layout.num_chosen), seed, tf.as_dtype(self.mean.dtype), None)
        deviation = self.root(noise, prepared)
        pieces = self.layout.fill(tf.split(deviation, self.layout.sizes, axis=-1))[0]
        mean = self.layout.unflatten(tf.convert_to_tensor(self.mean)) if mean is None else mean
        return [one + tf.cast(part, one.dtype) for one, part in zip(mean, self.layout.unflatten(pieces))]

    def mean_weights(self) -> list[tf.Tensor]:
        """Returns the mean as a tensor for each variable of the network, in order."""
        return self.layout.unflatten(tf.convert_to_tensor(self.mean))

    def assign_to(self, model: Source) -> None:
        """Sets the weights of the network, one model or several, to the mean; raises UserError for another network."""
        self.layout.check(model)
        for variable, value in zip(variables_of(model), self.mean_weights(), strict=True):
            variable.assign(value)

    def graph_of(self, model: Union[Graph, keras.Model, Sequence[keras.Model]]) -> Graph:
        """Returns the graph of a model whose layers are the first ones of the posterior's network; raises UserError."""
        graph = model if isinstance(model, Graph) else read(model)
        theirs, parts = Layout.of(graph).parts, self.layout.parts
        same = [one.shapes == other.shapes and (not one.prefix or one.prefix == other.prefix)
                for one, other in zip(parts, theirs)]
        if len(theirs) > len(parts) or not all(same):
            raise UserError(f"The weights of {graph.models[-1].name!r} are not the first ones of the network that the "
                            "posterior is over; pass that network, or the models at its beginning.")
        return graph

    def variance_diag(self) -> tf.Tensor:
        """Returns the variance of every weight, (P,); 0 for those that the posterior is not over."""
        return self.layout.fill(tf.split(self.variances()[None], self.layout.sizes, axis=-1))[0]

    def solve(self, rows: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        """Returns Lambda^-1 rows for rows (n, P_c)."""
        prepared = self.prepare() if prepared is None else prepared
        return self.root(self.whiten(rows, prepared), prepared)

    # ---- evidence ----------------------------------------------------------------------------------

    def evidence_of(self, **fit: Any) -> evidence.Evidence:
        """Returns the evidence as a function of the scales; arguments are those of `evidence.Fit`."""
        norms = [float((np.asarray(piece, np.float64) ** 2).sum()) for piece in self.layout.pick(self.mean.numpy())]
        return evidence.Evidence(self.spectrum(), np.array(norms), evidence.Fit(**fit), float(self.kappa.numpy()))

    def log_evidence(self, sse: Optional[float] = None, num_values: Optional[float] = None,
                     log_likelihood: Optional[float] = None) -> float:
        """Returns log Z in nats at the scales as they are: of Gaussian data from their squared error at the mean and
        the number of values, of others from their log likelihood."""
        function = self.evidence_of(sse=sse, num_values=num_values, log_likelihood=log_likelihood)
        return function(self.prior_precision.numpy(), float(self.noise_variance.numpy()))

    def optimise(self, sse: Optional[float] = None, num_values: Optional[float] = None,
                 log_likelihood: Optional[float] = None, *, per_layer: bool = False, learn_noise: bool = True,
                 method: Optional[str] = None) -> evidence.Scales:
        """Sets gamma and sigma^2 to those of the largest evidence, from where they are, and returns them.

        Arguments are those of `log_evidence` and of `Evidence.fixed_point`; method is "fixed_point", "gradient" or
        None: the first, but for sigma^2 of no more values than there are weights, whose fixed point may not be reached.
        Warns where the weights leave next to nothing of the values to the noise, so that sigma^2 says little.
        """
        function = self.evidence_of(sse=sse, num_values=num_values, log_likelihood=log_likelihood)
        methods = {"fixed_point": function.fixed_point, "gradient": function.by_gradient}
        count = function.fit.count if learn_noise else 0.0
        if method is None:
            method = "gradient" if 0 < count <= self.layout.num_chosen else "fixed_point"
        if method not in methods:
            raise unknown("method", method, methods)
        found = methods[method](self.prior_precision.numpy(), float(self.noise_variance.numpy()), per_layer=per_layer,
                                learn_noise=learn_noise)
        self.assign_scales(found.prior_precision, found.noise_variance)
        if count and count - found.effective.sum() < LEFT * count:
            warnings.warn(
                f"The data determine {found.effective.sum():.4g} weights of {count:g} values, so that the noise "
                f"variance of the largest evidence, {found.noise_variance:.3g} for a mean squared error of "
                f"{function.fit.error / count:.3g}, says little. Set noise_variance by assign_scales and take "
                "learn_noise=False.", UserWarning, stacklevel=2)
        return found

    # ---- files -------------------------------------------------------------------------------------

    @property
    def signature(self) -> str:
        """Hash of the architecture that the posterior belongs to."""
        return self.layout.signature

    def state(self) -> dict[str, np.ndarray]:
        """Returns all weights as arrays by name."""
        return {variable.name: variable.numpy() for variable in self.weights}

    def save(self, path: Union[str, Path]) -> None:
        """Writes an .npz file of plain arrays, whole or not at all."""
        note = json.dumps({"class": type(self).__name__, "config": self.get_config()})
        with files.file(Path(path)) as temporary:
            with open(temporary, "wb") as file:
                arrays: dict[str, Any] = {"posterior": np.array(note), **self.state()}
                np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Union[str, Path], model: Optional[Source] = None) -> "WeightPosterior":
        """Returns the posterior in a file of `save`, of its own class; `model` is the network it is meant for.

        Raises UserError for a file that is no posterior, values that are none, and a network of another architecture.
        """
        what, remedy = "file of a posterior", "write it with save(path)"
        state = reading.npz(Path(path), what, remedy)
        with reading.told(path, what, remedy):
            note = json.loads(str(state.pop("posterior")))
            posterior = _CLASSES[note["class"]].from_config(note["config"])
        if not isinstance(posterior, cls):
            raise UserError(f"{path} holds a {type(posterior).__name__}; load it with that class, or with "
                            "WeightPosterior.load.")
        if model is not None:
            posterior.layout.check(model)
        posterior._restore(state, path)
        return posterior

    def _restore(self, state: dict[str, np.ndarray], path: Union[str, Path]) -> None:
        shapes = {variable.name: tuple(variable.shape) for variable in self.weights}
        if {name: value.shape for name, value in state.items()} != shapes:
            raise UserError(f"{path} holds arrays {sorted(state)}, which are not those of a {type(self).__name__}.")
        broken = [name for name, value in state.items() if not np.isfinite(value).all()]
        scales = [name for name in ("prior_precision", "noise_variance", "kappa") if not _positive(state[name])]
        fault = self._faults(state)
        if broken or scales or fault:
            reason = fault or f"{', '.join(broken or scales)} must be finite{'' if broken else ' and above 0'}"
            raise UserError(f"{path} holds no posterior: {reason}.")
        for variable in self.weights:
            variable.assign(state[variable.name])

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "layout": self.layout.config()}

    # ---- parts of structures -----------------------------------------------------------------------

    def _weight(self, name: str, shape: tuple[int, ...], initializer: str = "zeros") -> keras.Variable:
        return self.add_weight(shape=shape, initializer=initializer, trainable=False, name=name)

    def _split(self, flat: tf.Tensor) -> list[tf.Tensor]:
        """Returns vectors (n, P_c) by chosen layer."""
        return tf.split(flat, self.layout.sizes, axis=-1)

    def _afford(self, numbers: int, what: str) -> None:
        needed = numbers * tf.as_dtype(self.mean.dtype).size / 2**20
        if needed > MEMORY:
            raise UserError(f"{what} would take {needed:.0f} MiB, more than {MEMORY}; choose fewer layers, or the "
                            "structure diag, kron or low_rank.")


# Compiled, since an eager loop takes milliseconds for each sample.
@tf.function(autograph=False)
def _noise_of(seed: tf.Tensor, numbers: tf.Tensor, size: int, dtype: tf.DType) -> tf.Tensor:
    """Returns standard normal noise (n, size), row s from fold_in(seed, s)."""
    return tf.map_fn(lambda s: seeds.normal((size,), seeds.fold_in(seed, s), dtype), numbers,
                     fn_output_signature=tf.TensorSpec((size,), dtype))


def finite(curvature: Sequence[tf.Tensor], what: str) -> None:
    """Raises UserError for a curvature with values that are not finite, where they are known."""
    if tf.executing_eagerly():
        for one in curvature:
            if not np.isfinite(np.asarray(one)).all():
                raise UserError(f"The curvature for {what} holds values that are not finite; look at the weights and "
                                "the data it was computed with.")


def triangular_factor(matrix: tf.Tensor, scale: tf.Tensor, prior: tf.Tensor) -> tf.Tensor:
    """Returns lower L with L L^T = scale G + prior I for symmetric positive semi-definite G (..., n, n), in float64.

    Nothing is added to the diagonal. Where rounding of G, kept in less precision, has made eigenvalues negative, beyond
    what the prior makes up for, all those that may be rounding alone count as 0.
    """
    matrix = tf.convert_to_tensor(matrix)
    rounding = matrix.shape[-1] * np.finfo(matrix.dtype.as_numpy_dtype).eps
    matrix = tf.cast(matrix, tf.float64)
    matrix = 0.5 * (matrix + tf.linalg.matrix_transpose(matrix))
    scale, prior = tf.cast(scale, tf.float64), tf.cast(prior, tf.float64)
    eye = tf.eye(matrix.shape[-1], dtype=tf.float64)
    lower, positive = cholesky.guarded(scale * matrix + prior * eye)

    def without_rounding():
        values, vectors = tf.linalg.eigh(matrix)
        values = tf.where(values > rounding * tf.reduce_max(values, axis=-1, keepdims=True), values, 0.0)
        scaled = vectors * (scale * values + prior)[..., None, :]
        return cholesky.guarded(tf.matmul(scaled, vectors, transpose_b=True))[0]

    return tf.cond(tf.reduce_all(positive), lambda: lower, without_rounding)


def variables_of(source: Any) -> list:
    """Returns the trainable variables of the models that a layout was read from, if it was."""
    if hasattr(source, "variables") and hasattr(source, "blocks"):
        return list(source.variables)
    models = source if isinstance(source, (list, tuple)) else [source]
    return [variable for model in models if isinstance(model, keras.Layer) for variable in model.trainable_variables]


def _positive(values: np.ndarray) -> bool:
    return bool(np.isfinite(values).all() and (values > 0).all())


