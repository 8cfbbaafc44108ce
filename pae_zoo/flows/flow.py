"""A density over rows of K numbers, a base that a chain of layers shapes: log density, samples, training."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Optional, Sequence, Union

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from keras.saving import register_keras_serializable

from pae_zoo.core import distributions, fit_data, seeds, values
from pae_zoo.core import labels as labels_lib
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError
from pae_zoo.core.inputs import TensorLike
from pae_zoo.core.trainable import Trainable
from pae_zoo.flows import builder
from pae_zoo.flows.base import FlowLayer, Pair, on_rows, on_rows_with
from pae_zoo.flows.bijector import FlowBijector
from pae_zoo.flows.linear import Whitening, is_constant
from pae_zoo.flows.sharing import Shared

tfd = tfp.distributions

# Rows on which ActNorm layers take their statistics.
ADAPT_ROWS = 10_000
# Steps, and numbers in all their batches, from which XLA saves, on a CPU, what it takes to compile eight blocks: 13 s,
# and 5 ms a step on 32 rows of 9 numbers, 29 on 256 rows, 79 on 256 rows of 64.
XLA_STEPS, XLA_NUMBERS = 200, 1e6
# Settings that a saved flow has where they are not 0.
LATER = ("dropout", "weight_decay")


@register_keras_serializable("pae_zoo")
class Flow(Trainable):
    """z = whitening(layer_n(... layer_1(u))), u ~ p_base, fitted to data z by maximum likelihood.

    With `context_dim` it is a density p(z|c) for each context c: the layers see c, and `fit`, `predict` and
    `flow(rows)` take rows (n, K + C) of z and c, which `join` makes. With a base whose components belong to labels it
    is one for each label, and p(z) their mixture; the rows are (n, K + 1), the label last.

    Minimises -log p(z) = -log p_base(u) - log|det du/dz| with u the inverse of z, nats per datum; p_base is N(0, I) or
    a mixture, which is fitted first and then trained along. `flow(z)` and `predict` give log p(z).

    Args:
      num_dims: K.
      layers: a preset (nice, realnvp, nsf, maf) or the list of layers from the base to the data; see
        `pae_zoo.flows.layer_types`.
      depth: blocks of a preset.
      hidden_units, activation: conditioners of couplings and autoregressive layers.
      bins, bound: of splines, which live on [-bound, bound] of whitened data.
      noise: std of Gaussian noise added to the whitened training data, 0 for none.
      whiten: whether a fixed affine map z = m + C^(1/2) v, taken from the training data, ends the chain.
      base: a `pae_zoo.densities.Mixture` over K dimensions, fitted by EM to where the chain, as it starts, takes the
        data; None for N(0, I).
      seed: base of initial weights, permutations and every number drawn in training.
      dtype: "float32" or "float64" (None: as the weights of the Keras policy).
      context_dim: C, the width of the context that couplings and autoregressive layers see; 0 for none. With `whiten`
        they see it centred and scaled column by column, as the training data say.
      dropout: share of the conditioners' hidden units that training leaves out, drawn for each row and step.
      weight_decay: that much times half the sum of the conditioners' squared kernels is added to the loss, nats a row.

    Raises UserError for an unknown layer, or one that cannot take K dimensions, or a context that no layer takes.
    """

    tracked = ("nll",)
    divides = True

    def __init__(
        self,
        num_dims: int,
        layers: Union[str, Sequence[str]] = ("nsf",),
        depth: int = 8,
        hidden_units: Sequence[int] = (128, 128),
        bins: int = 16,
        bound: float = 5.0,
        activation: str = "relu",
        noise: float = 0.0,
        whiten: bool = True,
        base: Optional[keras.layers.Layer] = None,
        seed: int = 0,
        dtype: Optional[str] = None,
        context_dim: int = 0,
        dropout: float = 0.0,
        weight_decay: float = 0.0,
        **kwargs: Any,
    ) -> None:
        # Not the global policy: densities are never computed in half precision.
        super().__init__(seed=seed, dtype=dtype or keras.config.dtype_policy().variable_dtype, **kwargs)
        if noise < 0:
            raise UserError(f"noise is a standard deviation, 0 or more; received {noise}.")
        self.num_dims = int(num_dims)
        self.spec = layers if isinstance(layers, str) else tuple(layers)
        self.depth = int(depth)
        units = tuple(int(units) for units in hidden_units)
        self.options = dict(hidden_units=units, activation=activation, bins=int(bins), bound=float(bound),
                            dropout=float(dropout), weight_decay=float(weight_decay))
        self.noise = float(noise)
        self.whiten = bool(whiten)
        self.context_dim = int(context_dim)
        names = builder.layer_types(self.spec, self.depth) if self.spec else ()
        self.chain = builder.build(names, self.num_dims, self.seed, dtype=self.dtype_policy,
                                   context_dim=self.context_dim, **self.options)
        if self.context_dim and not any(layer.context_dim for layer in self.chain):
            raise UserError(f"context_dim={self.context_dim}, but no layer takes a context; received the layers "
                            f"{self.layer_names}. Take couplings or autoregressive layers, or context_dim=0.")
        if self.context_dim:
            size = (self.context_dim,)
            self.context_mean = self.add_weight(size, "zeros", trainable=False, name="context_mean")
            self.context_std = self.add_weight(size, "ones", trainable=False, name="context_std")
        self.whitening: Optional[Whitening] = None
        if self.whiten:
            self.whitening = Whitening(dtype=self.dtype_policy, name="whitening")
            self.whitening.build((None, self.num_dims))
        self._small = False
        self.base: Any = base
        if base is not None and base.num_dims != self.num_dims:
            raise UserError(f"The base has {base.num_dims} dimensions, the flow {self.num_dims}; give both the same.")
        if self.num_labels and self.context_dim:
            raise UserError("A flow has a context or labels; received both. Give the labels as part of the context.")
        self.built = True

    @property
    def num_labels(self) -> int:
        """The number of labels that components of the base belong to, 0 without."""
        return getattr(getattr(self, "base", None), "num_labels", 0)

    @property
    def layer_names(self) -> list[str]:
        """The types of the layers actually present, from the base to the data, without the final whitening."""
        return [layer.kind for layer in self.chain]

    # ---- the map -----------------------------------------------------------------------------------

    def forward(self, u: TensorLike, context: Optional[TensorLike] = None) -> Pair:
        """Maps u (..., K) of the base to data: (z, log|det dz/du|) of shapes (..., K) and (...)."""
        return self.transform(u, inverse=False, context=context)

    def inverse(self, z: TensorLike, context: Optional[TensorLike] = None) -> Pair:
        """Maps data z (..., K) to the base: (u, log|det du/dz|) of shapes (..., K) and (...)."""
        return self.transform(z, inverse=True, context=context)

    def transform(self, x: TensorLike, inverse: bool = False, context: Optional[TensorLike] = None) -> Pair:
        """`forward`, or with inverse=True `inverse`; a context is (..., C), leading axes broadcast with those of x."""
        values, seen = self._rows(x), self._seen(context)
        if seen is None:
            return on_rows(lambda rows: self._through(self._all_layers(), rows, inverse), values)
        return on_rows_with(lambda rows, given: self._through(self._all_layers(), rows, inverse, given), values, seen)

    def _all_layers(self) -> list:
        return self.chain + ([self.whitening] if self.whiten else [])

    def _through(self, layers: Sequence, x: tf.Tensor, inverse: bool, seen: Optional[tf.Tensor] = None,
                 seed: Optional[tf.Tensor] = None, shared: Optional[Shared] = None) -> Pair:
        total = tf.zeros_like(x[:, 0])
        for index, layer in enumerate(reversed(layers) if inverse else layers):
            given: dict[str, Any] = {}
            if seen is not None and layer.context_dim:
                given["projected"] = layer.project(seen)
            if seed is not None and layer.dropout:
                given["seed"] = seeds.fold_in(seed, index)
            x, log_det = (shared(layer) if shared else layer.transform)(x, inverse, **given)
            total += log_det
        return x, total

    def _rows(self, x, width: int = 0) -> tf.Tensor:
        x, width = tf.cast(tf.convert_to_tensor(x), self.compute_dtype), width or self.num_dims
        if x.shape.rank == 0 or x.shape[-1] != width:
            raise UserError(f"This flow is over (..., {width}); received an array of shape {x.shape}.")
        return x

    # ---- the context -------------------------------------------------------------------------------

    def _seen(self, context) -> Optional[tf.Tensor]:
        """Returns a context (..., C) as the layers see it, None where there is none; raises UserError."""
        if (context is None) != (self.context_dim == 0):
            what = "none" if context is None else "one"
            raise UserError(f"This flow has context_dim={self.context_dim}; give a context exactly where that is not "
                            f"0. Received {what}.")
        if context is None:
            return None
        context = tf.cast(tf.convert_to_tensor(context), self.compute_dtype)
        if context.shape.rank == 0 or context.shape[-1] != self.context_dim:
            raise UserError(f"This flow takes a context (..., {self.context_dim}); received shape {context.shape}.")
        return (context - self.context_mean) / self.context_std

    def join(self, z: Any, context: Any) -> np.ndarray:
        """Returns z (n, K) and its context (n, C), or labels (n,), as rows that `fit` takes; raises UserError."""
        z, context = np.asarray(z), np.asarray(context)
        if self.num_labels and context.ndim == 1 and len(context) == len(z):
            own = labels_lib.checked(context, self.num_labels)[:, None]
            return np.concatenate([z, own.astype(z.dtype if z.dtype.kind == "f" else np.float64)], axis=1)
        if z.ndim != 2 or context.shape != (len(z), self.context_dim) or z.shape[1] != self.num_dims:
            raise UserError(f"Data (n, {self.num_dims}) and a context (n, {self.context_dim}) are joined; received "
                            f"shapes {z.shape} and {context.shape}.")
        return np.concatenate([z, context], axis=1)

    def _parted(self, rows: TensorLike) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Returns z (..., K) of joined rows, and what it is given: {"context": (..., C)}, {"label": (...)} or {}."""
        joined = self._rows(rows, *self.event_shape)
        z, rest = joined[..., : self.num_dims], joined[..., self.num_dims :]
        if self.num_labels:
            return z, {"label": tf.cast(rest[..., 0], tf.int32)}
        return z, {"context": rest} if self.context_dim else {}

    # ---- density and samples -----------------------------------------------------------------------

    def log_prob(self, z: TensorLike, context: Optional[TensorLike] = None,
                 label: Optional[TensorLike] = None) -> tf.Tensor:
        """Returns log p(z) in nats, (..., K) -> (...); with a context (..., C), log p(z|c), leading axes broadcast.

        With labels c, () or (batch,), that of each z (..., batch, K) is log p(z|c) too.
        """
        u, log_det = self.inverse(z, context)
        return self._base_log_prob(u, label) + log_det

    def _base_log_prob(self, u: tf.Tensor, label: Optional[TensorLike] = None) -> tf.Tensor:
        if label is not None:
            return self.base.log_prob(u, labels_lib.given(label, self.num_labels))
        if self.base is not None:
            return self.base.log_prob(u)
        return -0.5 * (tf.reduce_sum(tf.square(u), axis=-1) + self.num_dims * LOG_2PI)

    def log_label_prob(self, z: TensorLike) -> tf.Tensor:
        """Returns log p(c|z) of every label c, (..., K) -> (..., C); raises UserError without labels or before `fit`.

        By Bayes' rule, from p(z|c) and the shares of labels in the training data.
        """
        if not self.num_labels:
            raise UserError("This density has no labels. Build it with num_labels, and fit it with labels.")
        return tf.nn.log_softmax(self.base.log_joint(self.inverse(z)[0]))

    def sample(self, num: int, seed: Any = None, context: Optional[TensorLike] = None,
               label: Optional[TensorLike] = None) -> tf.Tensor:
        """Draws `num` data, shape (num, K); `seed` is a pair of integers, None takes the flow's next one.

        With a context (..., C) as many are drawn for each, (num, ..., K). `label` is one for all, (), or one for each
        of them, (num,).
        """
        shape = num
        if context is not None:
            context = tf.convert_to_tensor(context)
            shape = tf.concat([[num], tf.shape(context)[:-1]], axis=0)
        u = self.base_distribution(label=label).sample(shape, seed=self.next_seed(seed))
        return self.forward(u, context)[0]

    def base_distribution(self, dtype: Any = None, label: Optional[TensorLike] = None) -> tfd.Distribution:
        """Returns p_base(u), or that of a label, as a `tfd` distribution, event shape (K,); build one per use."""
        dtype = tf.as_dtype(dtype or self.compute_dtype)
        if label is not None:
            return self.base.distribution(dtype, labels_lib.given(label, self.num_labels))
        if self.base is not None and self.base.fitted_components:
            return self.base.distribution(dtype)
        zeros = tf.zeros([self.num_dims], dtype)
        return tfd.Independent(distributions.Normal(zeros, tf.ones_like(zeros)), reinterpreted_batch_ndims=1)

    def call(self, z: TensorLike, training: bool = False) -> tf.Tensor:
        """Returns log p(z) in nats, (..., K) -> (...); with a context log p(z|c), (..., K + C) -> (...)."""
        z, given = self._parted(z)
        return self.log_prob(z, **given)

    def bijector(self, context: Optional[TensorLike] = None) -> FlowBijector:
        """Returns the flow, at a context (C,) where it has one, as a TFP bijector, base to data; build one per use."""
        def transform(x, inverse=False):
            return self.transform(x, inverse, context)

        return FlowBijector(transform, dtype=self.compute_dtype, name=self.name)

    def distribution(self, context: Optional[TensorLike] = None) -> tfd.TransformedDistribution:
        """Returns p(z), or p(z|c) for one c (C,), as a `tfd` distribution, event shape (K,); build one per use."""
        return tfd.TransformedDistribution(self.base_distribution(), self.bijector(context))

    # ---- training ----------------------------------------------------------------------------------

    def objective(self, x: tf.Tensor, seed: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """Returns "loss" and "nll", both -log p(x) in nats, (batch,); training drops out and adds noise."""
        (v, given), log_det = self._parted(x), 0.0
        if self.whitening is not None:
            v, log_det = self.whitening.transform(v, inverse=True)
        if training and self.noise:
            v += self.noise * seeds.normal(tf.shape(v), seed, v.dtype, batch=0)
        dropped = seeds.stream(seed, "flow/dropout") if training and self.options["dropout"] else None
        shared = Shared(self.chain) if self._small else None
        u, more = self._through(self.chain, v, True, self._seen(given.get("context")), dropped, shared)
        nll = -self._base_log_prob(u, given.get("label")) - log_det - more
        return {"loss": nll, "nll": nll}

    def xla_saves(self, steps: int, numbers: int) -> bool:
        return steps >= XLA_STEPS and steps * numbers >= XLA_NUMBERS

    @contextlib.contextmanager
    def tracing_small(self) -> Iterator[None]:
        """Inside, `objective` shares what is traced between layers that are equal, which XLA would not bear."""
        self._small = True
        try:
            yield
        finally:
            self._small = False

    def adapt(self, x: np.ndarray) -> None:
        """Sets the whitening, then ActNorm layers, from data x (n, K); raises UserError if not all is finite.

        With a context x is (n, K + C); its mean and std are taken too, where the flow whitens.
        """
        x = self._checked(x)
        if self.context_dim and self.whiten:
            given = x[:, self.num_dims :].astype(np.float64)
            self.context_mean.assign(given.mean(axis=0))
            self.context_std.assign(np.where(is_constant(given), 1.0, given.std(axis=0)))
        v, context = self._parted(x[np.linspace(0, len(x) - 1, min(len(x), ADAPT_ROWS)).astype(int)])
        seen = self._seen(context.get("context"))
        if self.whitening is not None:
            self.whitening.adapt(x[:, : self.num_dims])
            v, _ = self.whitening(v, inverse=True)
        waiting = [layer for layer in self.chain if type(layer).adapt is not FlowLayer.adapt]
        for layer in reversed(self.chain):
            if not waiting:
                break
            if layer is waiting[-1]:
                waiting.pop().adapt(v)
            v, _ = self._through([layer], v, True, seen)
        super().adapt(x)

    @property
    def prepares(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether there is a base to fit before the first step."""
        return self.base is not None

    def prepare(self, x: np.ndarray, held_out: Optional[np.ndarray] = None, weights: Optional[np.ndarray] = None,
                verbose: bool = False) -> dict[str, float]:
        """Fits the base to data x (n, K), or (n, K + C), as the chain takes them, by `Mixture.fit`; after `adapt`."""
        if self.base is None:
            return {}
        u, log_det = self._in_base(self._checked(x))
        judge = None if held_out is None or not len(held_out) else self._in_base(np.asarray(held_out))
        labels = {} if not self.num_labels else {
            "labels": np.asarray(x)[:, -1], "held_out_labels": None if judge is None else np.asarray(held_out)[:, -1]}
        found = self.base.fit(u, None if judge is None else judge[0], weights, verbose, **labels)
        found["mixture_nll"] -= float(np.mean(log_det if judge is None else judge[1]))
        return found

    def _in_base(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [self._parted(x[i : i + ADAPT_ROWS]) for i in range(0, len(x), ADAPT_ROWS)]
        pairs = [self.inverse(z, given.get("context")) for z, given in parts]
        return np.concatenate([u for u, _ in pairs]), np.concatenate([log_det for _, log_det in pairs])

    def prepared(self) -> dict[str, int]:
        return {} if self.base is None else {"components": self.base.fitted_components}

    def restructure(self, sizes: dict[str, int]) -> None:
        if self.base is not None:
            self.base.num_components = int(sizes["components"])
            self.base.build((None, self.num_dims))

    @property
    def event_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The shape of one datum, (K,), or (K + C,) with a context, (K + 1,) with labels."""
        return (self.num_dims + (1 if self.num_labels else self.context_dim),)

    def form(self) -> fit_data.Form:
        # A flow is over numbers: integers are what they are, in training as in `log_prob`; labels are in the rows.
        return dataclasses.replace(super().form(), bytes_are_pixels=False, num_labels=0)

    def as_input(self, x: tf.Tensor) -> tf.Tensor:
        return self._rows(x, *self.event_shape)

    def _checked(self, x) -> np.ndarray:
        x, (width,) = np.asarray(x), self.event_shape
        if x.ndim != 2 or x.shape[1] != width or len(x) < 2:
            context = f" with a context of {self.context_dim}" if self.context_dim else ""
            context = f" with labels, those in the last of {width} columns," if self.num_labels else context
            raise UserError(
                f"A flow over {self.num_dims} dimensions{context} is trained on an array (n, {width}), n >= 2; "
                f"received shape {x.shape}."
            )
        values.check(x, "x", unit=False)
        return x

    # ---- saving ------------------------------------------------------------------------------------

    def build(self, input_shape: Any = None) -> None:
        # The layers are built before the flow is; Keras calls this again on loading.
        self.built = True

    def get_config(self) -> dict[str, Any]:
        names = ("num_dims", "depth", "noise", "whiten", "seed", "context_dim", "name")
        own = {name: getattr(self, name) for name in names}
        base = {} if self.base is None else {"base": keras.saving.serialize_keras_object(self.base)}
        # Runs keep a hash of this; those of before know nothing of what is 0 here.
        options = {name: value for name, value in self.options.items() if value or name not in LATER}
        return {**own, **options, **base, "layers": self.spec, "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Flow":
        base = config.get("base")
        if base is not None:
            config = {**config, "base": keras.saving.deserialize_keras_object(base, custom_objects)}
        return cls(**config)
