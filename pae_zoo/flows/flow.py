"""A density over rows of K numbers, a base that a chain of layers shapes: log density, samples, training."""

import dataclasses
from typing import Any, Optional, Sequence, Union

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp
from keras.saving import register_keras_serializable

from pae_zoo.core import distributions, seeds, values
from pae_zoo.core.distributions import LOG_2PI
from pae_zoo.core.errors import UserError
from pae_zoo.core.trainable import Trainable
from pae_zoo.flows import builder
from pae_zoo.flows.base import FlowLayer, Pair, on_rows
from pae_zoo.flows.bijector import FlowBijector
from pae_zoo.flows.linear import Whitening

tfd = tfp.distributions

# Rows on which ActNorm layers take their statistics.
ADAPT_ROWS = 10_000


@register_keras_serializable("pae_zoo")
class Flow(Trainable):
    """z = whitening(layer_n(... layer_1(u))), u ~ p_base, fitted to data z by maximum likelihood.

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

    Raises UserError for an unknown layer, or one that cannot take K dimensions.
    """

    tracked = ("nll",)

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
        self.options = dict(hidden_units=units, activation=activation, bins=int(bins), bound=float(bound))
        self.noise = float(noise)
        self.whiten = bool(whiten)
        names = builder.layer_types(self.spec, self.depth) if self.spec else ()
        self.chain = builder.build(names, self.num_dims, self.seed, dtype=self.dtype_policy, **self.options)
        self.whitening: Optional[Whitening] = None
        if self.whiten:
            self.whitening = Whitening(dtype=self.dtype_policy, name="whitening")
            self.whitening.build((None, self.num_dims))
        self.base: Any = base
        if base is not None and base.num_dims != self.num_dims:
            raise UserError(f"The base has {base.num_dims} dimensions, the flow {self.num_dims}; give both the same.")
        self.built = True

    @property
    def layer_names(self) -> list[str]:
        """The types of the layers actually present, from the base to the data, without the final whitening."""
        return [layer.kind for layer in self.chain]

    # ---- the map -----------------------------------------------------------------------------------

    def forward(self, u) -> Pair:
        """Maps u (..., K) of the base to data: (z, log|det dz/du|) of shapes (..., K) and (...)."""
        return self.transform(u, inverse=False)

    def inverse(self, z) -> Pair:
        """Maps data z (..., K) to the base: (u, log|det du/dz|) of shapes (..., K) and (...)."""
        return self.transform(z, inverse=True)

    def transform(self, x, inverse: bool = False) -> Pair:
        """`forward`, or with inverse=True `inverse`."""
        return on_rows(lambda rows: self._through(self._all_layers(), rows, inverse), self._rows(x))

    def _all_layers(self) -> list:
        return self.chain + ([self.whitening] if self.whiten else [])

    def _through(self, layers: Sequence, x: tf.Tensor, inverse: bool) -> Pair:
        total = tf.zeros_like(x[:, 0])
        for layer in reversed(layers) if inverse else layers:
            x, log_det = layer.transform(x, inverse)
            total += log_det
        return x, total

    def _rows(self, x) -> tf.Tensor:
        x = tf.cast(tf.convert_to_tensor(x), self.compute_dtype)
        if x.shape.rank == 0 or x.shape[-1] != self.num_dims:
            raise UserError(f"This flow is over (..., {self.num_dims}); received an array of shape {x.shape}.")
        return x

    # ---- density and samples -----------------------------------------------------------------------

    def log_prob(self, z) -> tf.Tensor:
        """Returns log p(z) in nats, (..., K) -> (...)."""
        u, log_det = self.inverse(z)
        return self._base_log_prob(u) + log_det

    def _base_log_prob(self, u: tf.Tensor) -> tf.Tensor:
        if self.base is not None:
            return self.base.log_prob(u)
        return -0.5 * (tf.reduce_sum(tf.square(u), axis=-1) + self.num_dims * LOG_2PI)

    def sample(self, num: int, seed=None) -> tf.Tensor:
        """Draws `num` data, shape (num, K); `seed` is a pair of integers, None takes the flow's next one."""
        return self.forward(self.base_distribution().sample(num, seed=self.next_seed(seed)))[0]

    def base_distribution(self, dtype: Any = None) -> tfd.Distribution:
        """Returns p_base(u) as a `tfd` distribution, event shape (K,); build one per use."""
        dtype = tf.as_dtype(dtype or self.compute_dtype)
        if self.base is not None and self.base.fitted_components:
            return self.base.distribution(dtype)
        zeros = tf.zeros([self.num_dims], dtype)
        return tfd.Independent(distributions.Normal(zeros, tf.ones_like(zeros)), reinterpreted_batch_ndims=1)

    def call(self, z, training: bool = False) -> tf.Tensor:
        """Returns log p(z) in nats, (..., K) -> (...)."""
        return self.log_prob(z)

    def bijector(self) -> FlowBijector:
        """Returns the flow as a TFP bijector, base to data; build one per use."""
        return FlowBijector(self.transform, dtype=self.compute_dtype, name=self.name)

    def distribution(self) -> tfd.TransformedDistribution:
        """Returns p(z) as a `tfd` distribution, event shape (K,); build one per use."""
        return tfd.TransformedDistribution(self.base_distribution(), self.bijector())

    # ---- training ----------------------------------------------------------------------------------

    def objective(self, x, seed, training):
        """Returns "loss" and "nll", both -log p(x) in nats, (batch,); training adds `noise` in whitened space."""
        v, log_det = self._rows(x), 0.0
        if self.whitening is not None:
            v, log_det = self.whitening.transform(v, inverse=True)
        if training and self.noise:
            v += self.noise * seeds.normal(tf.shape(v), seed, v.dtype)
        u, more = self._through(self.chain, v, inverse=True)
        nll = -self._base_log_prob(u) - log_det - more
        return {"loss": nll, "nll": nll}

    def adapt(self, x) -> None:
        """Sets the whitening, then ActNorm layers, from data x (n, K); raises UserError if not all is finite."""
        x = self._checked(x)
        v = self._rows(x[np.linspace(0, len(x) - 1, min(len(x), ADAPT_ROWS)).astype(int)])
        if self.whitening is not None:
            self.whitening.adapt(x)
            v, _ = self.whitening(v, inverse=True)
        waiting = [layer for layer in self.chain if type(layer).adapt is not FlowLayer.adapt]
        for layer in reversed(self.chain):
            if not waiting:
                break
            if layer is waiting[-1]:
                waiting.pop().adapt(v)
            v, _ = layer(v, inverse=True)
        super().adapt(x)

    @property
    def prepares(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether there is a base to fit before the first step."""
        return self.base is not None

    def prepare(self, x: np.ndarray, held_out: Optional[np.ndarray] = None, weights: Optional[np.ndarray] = None,
                verbose: bool = False) -> dict[str, float]:
        """Fits the base to data x (n, K) as the chain takes them, by `Mixture.fit`; after `adapt`."""
        if self.base is None:
            return {}
        u, log_det = self._in_base(self._checked(x))
        judge = None if held_out is None or not len(held_out) else self._in_base(np.asarray(held_out))
        found = self.base.fit(u, None if judge is None else judge[0], weights, verbose)
        found["mixture_nll"] -= float(np.mean(log_det if judge is None else judge[1]))
        return found

    def _in_base(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pairs = [self.inverse(x[i : i + ADAPT_ROWS]) for i in range(0, len(x), ADAPT_ROWS)]
        return np.concatenate([u for u, _ in pairs]), np.concatenate([log_det for _, log_det in pairs])

    def prepared(self) -> dict[str, int]:
        return {} if self.base is None else {"components": self.base.fitted_components}

    def restructure(self, sizes: dict[str, int]) -> None:
        if self.base is not None:
            self.base.num_components = int(sizes["components"])
            self.base.build((None, self.num_dims))

    @property
    def event_shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The shape of one datum, (K,)."""
        return (self.num_dims,)

    def form(self):
        # A flow is over numbers: integers are what they are, in training as in `log_prob`.
        return dataclasses.replace(super().form(), bytes_are_pixels=False)

    def as_input(self, x):
        return self._rows(x)

    def _checked(self, x) -> np.ndarray:
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.num_dims or len(x) < 2:
            raise UserError(
                f"A flow over {self.num_dims} dimensions is trained on an array (n, {self.num_dims}), n >= 2; "
                f"received shape {x.shape}."
            )
        values.check(x, "x", unit=False)
        return x

    # ---- saving ------------------------------------------------------------------------------------

    def build(self, input_shape=None) -> None:
        # The layers are built before the flow is; Keras calls this again on loading.
        self.built = True

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("num_dims", "depth", "noise", "whiten", "seed", "name")}
        base = {} if self.base is None else {"base": keras.saving.serialize_keras_object(self.base)}
        return {**own, **self.options, **base, "layers": self.spec, "dtype": self.dtype_policy.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Flow":
        base = config.get("base")
        if base is not None:
            config = {**config, "base": keras.saving.deserialize_keras_object(base, custom_objects)}
        return cls(**config)
