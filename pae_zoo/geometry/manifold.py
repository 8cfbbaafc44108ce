"""What geodesics live on: a latent space with the distances that a decoder, certain or not, gives to it."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Optional

import tensorflow as tf

from pae_zoo.core.errors import UserError
from pae_zoo.core.forward_mode import jvp

# Up to so many latents the directional derivatives are laid out side by side, above they run in a loop.
UNROLLED = 4
# Latents that a new decoder is tried on: a number that a batch axis cannot be mistaken for.
PROBE_ROWS = 7


class Segments(NamedTuple):
    """What the pieces of curves of T points are made of; f is one draw of the decoder, mu its mean.

    mean: |mu(z_{k+1}) - mu(z_k)|^2, shape (..., T - 1).
    expected: E |f(z_{k+1}) - f(z_k)|^2, with the same f at both ends, (..., T - 1).
    variance: tr Cov f(z_k), (..., T).
    """

    mean: tf.Tensor
    expected: tf.Tensor
    variance: tf.Tensor


class Features(NamedTuple):
    """An embedding of latents z (n, d) whose squared distances are the expected ones of a stochastic decoder.

    mean: mu(z), (n, P). spread: (q, n, P) with sum over q and P of spread^2 = tr Cov f(z), or None if f is certain:
    E |f(z) - f(z')|^2 = |mean - mean'|^2 + |spread - spread'|^2.
    """

    mean: tf.Tensor
    spread: Optional[tf.Tensor]


class Manifold:
    """A latent space of `latent_dim` dimensions with a Riemannian metric; computations are of type `dtype`."""

    latent_dim: int
    dtype: tf.DType = tf.float32

    def segments(self, z: tf.Tensor) -> Segments:
        """Returns the squared lengths of the pieces of curves z (..., T, d), and the variance at their points."""
        raise NotImplementedError(f"{type(self).__name__} does not define the segments of a curve.")

    def metric(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the expected metric E[G] = E[J' J] at z (..., d), shape (..., d, d)."""
        raise NotImplementedError(f"{type(self).__name__} does not define its metric.")

    def metric_parts(self, z: tf.Tensor) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
        """Returns the metric of the mean and what the spread about it adds (None: nothing), each (..., d, d)."""
        return self.metric(z), None

    def mean(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the decoder's mean at z (..., d), flat: (..., P)."""
        raise NotImplementedError(f"{type(self).__name__} has a metric and no decoder.")

    def uncertainty(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the mean over outputs of the decoder's std at z (..., d), shape (...)."""
        raise NotImplementedError(f"{type(self).__name__} has no uncertainty.")

    @property
    def size(self) -> int:
        """Floats that one point keeps alive while it is decoded: what batches are cut by."""
        return self.latent_dim**2


class Embedded(Manifold):
    """A decoder, certain or not, whose expected metric is that of finitely many features.

    E[G] = J_mu' J_mu + J_spread' J_spread (Syrota et al., arXiv 2408.07507, eqs. 9 and 10).
    """

    def features(self, z: tf.Tensor) -> Features:
        """Returns the features of z (n, d)."""
        raise NotImplementedError(f"{type(self).__name__} does not define its features.")

    def segments(self, z: tf.Tensor) -> Segments:
        flat, lead = flatten(z, self.dtype)
        mean, spread = self.features(flat)
        mean = tf.reshape(mean, (*lead, mean.shape[-1]))
        mean_steps = tf.reduce_sum(tf.square(differences(mean)), axis=-1)
        if spread is None:
            return Segments(mean_steps, mean_steps, tf.zeros_like(mean[..., 0]))
        spread = tf.reshape(spread, (spread.shape[0], *lead, spread.shape[-1]))
        variance = tf.reduce_sum(tf.square(spread), axis=(0, -1))
        steps = tf.reduce_sum(tf.square(differences(spread)), axis=(0, -1))
        return Segments(mean_steps, mean_steps + steps, variance)

    def derivatives(self, z: tf.Tensor) -> tuple[Features, Features]:
        """Returns (features, their derivatives with a leading axis of the d directions) at z (n, d).

        d forward-mode products, not one reverse pass for each output.
        """
        size = self.latent_dim

        def product(direction):
            return jvp(self.features, z, tf.broadcast_to(direction, tf.shape(z)))[1]

        values = self.features(z)
        if size <= UNROLLED:
            columns = [product(direction) for direction in tf.unstack(tf.eye(size, dtype=z.dtype))]
            spreads = [part.spread for part in columns if part.spread is not None]
            return values, Features(tf.stack([part.mean for part in columns]), tf.stack(spreads) if spreads else None)
        if values.spread is None:
            mean = tf.map_fn(lambda e: product(e).mean, tf.eye(size, dtype=z.dtype))
            return values, Features(mean, None)
        signature = tf.nest.map_structure(lambda part: tf.TensorSpec(part.shape, part.dtype), values)
        return values, tf.map_fn(product, tf.eye(size, dtype=z.dtype), fn_output_signature=signature)

    def metric(self, z: tf.Tensor) -> tf.Tensor:
        mean, spread = self.metric_parts(z)
        return mean if spread is None else mean + spread

    def metric_parts(self, z: tf.Tensor) -> tuple[tf.Tensor, Optional[tf.Tensor]]:
        flat, lead = flatten(z, self.dtype)
        shape = (*lead, self.latent_dim, self.latent_dim)
        _, (mean, spread) = self.derivatives(flat)
        found = tf.reshape(_products(mean[:, None]), shape)
        return found, None if spread is None else tf.reshape(_products(spread), shape)

    def mean(self, z: tf.Tensor) -> tf.Tensor:
        flat, lead = flatten(z, self.dtype)
        mean = self.features(flat).mean
        return tf.reshape(mean, (*lead, mean.shape[-1]))

    def uncertainty(self, z: tf.Tensor) -> tf.Tensor:
        flat, lead = flatten(z, self.dtype)
        spread = self.features(flat).spread
        if spread is None:
            raise NotImplementedError("This decoder is certain: it has one mean and no spread about it.")
        std = tf.sqrt(tf.reduce_sum(tf.square(spread), axis=0))
        return tf.reshape(tf.reduce_mean(std, axis=-1), lead)

    @property
    def size(self) -> int:
        probe = self.features(tf.zeros((1, self.latent_dim), self.dtype))
        return sum(math.prod(part.shape) for part in probe if part is not None)


class Deterministic(Embedded):
    """A decoder without uncertainty: G = J' J, for f: z (n, d) -> (n, ...)."""

    def __init__(self, decoder: Callable[[tf.Tensor], Any], latent_dim: int, dtype: tf.DType = tf.float32):
        self.decoder, self.latent_dim, self.dtype = decoder, latent_dim, dtype

    def features(self, z: tf.Tensor) -> Features:
        return Features(_flat(self.decoder(z), self.dtype), None)


class Ensemble(Embedded):
    """S decoders, equally likely: E[G] = 1/S sum_s J_s' J_s (Syrota et al., arXiv 2408.07507, eq. 9).

    Args:
      decoder: has `mean_and_members(z)`: z (n, d) -> (mean (n, ...), members (S, n, ...)), with divisor S.
    """

    def __init__(self, decoder: Any, latent_dim: int, dtype: tf.DType = tf.float32):
        self.decoder, self.latent_dim, self.dtype = decoder, latent_dim, dtype
        if self.num_members < 1:
            raise UserError("An ensemble of 0 decoders has no geometry; it takes at least 1.")

    @property
    def num_members(self) -> int:
        """The number S of decoders."""
        return int(self.members(tf.zeros((1, self.latent_dim), self.dtype)).shape[0])

    def members(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the members' outputs at z (n, d), shape (S, n, P)."""
        found = tf.cast(self.decoder.mean_and_members(z)[1], self.dtype)
        return tf.reshape(found, (found.shape[0], -1, math.prod(found.shape[2:])))

    def features(self, z: tf.Tensor) -> Features:
        found = self.members(z)
        if found.shape[0] == 1:
            return Features(found[0], None)
        mean = tf.reduce_mean(found, axis=0)
        return Features(mean, (found - mean) / math.sqrt(found.shape[0]))

    def member_metrics(self, z: tf.Tensor) -> tf.Tensor:
        """Returns the metric J_s' J_s of each member at z (n, d), shape (n, S, d, d), whose mean over S is E[G]."""
        flat, _ = flatten(z, self.dtype)
        directions = tf.unstack(tf.eye(self.latent_dim, dtype=self.dtype))
        slopes = tf.stack([jvp(self.members, flat, tf.zeros_like(flat) + one)[1] for one in directions])
        return tf.einsum("isnp,jsnp->nsij", slopes, slopes)

    def uncertainty(self, z: tf.Tensor) -> tf.Tensor:
        flat, lead = flatten(z, self.dtype)
        mean, spread = self.features(flat)
        if spread is None:
            return tf.zeros(lead, self.dtype)
        std = tf.sqrt(tf.reduce_sum(tf.square(spread), axis=0))
        return tf.reshape(tf.reduce_mean(std, axis=-1), lead)


class MeanAndStd(Embedded):
    """A decoder with a std for every output: G = J_mu' J_mu + J_sigma' J_sigma (Arvanitidis et al., arXiv 1710.11379).

    Args:
      decoder: has `mean_and_std(z)`: z (n, d) -> (mean (n, ...), std (n, ...)); the std, not variance or precision.
    """

    def __init__(self, decoder: Any, latent_dim: int, dtype: tf.DType = tf.float32):
        self.decoder, self.latent_dim, self.dtype = decoder, latent_dim, dtype

    def features(self, z: tf.Tensor) -> Features:
        mean, std = self.decoder.mean_and_std(z)
        return Features(_flat(mean, self.dtype), _flat(std, self.dtype)[None])


class MeanAlone(Embedded):
    """The mean of a stochastic decoder, as if it were certain."""

    def __init__(self, manifold: Embedded):
        self.manifold, self.latent_dim, self.dtype = manifold, manifold.latent_dim, manifold.dtype

    def features(self, z: tf.Tensor) -> Features:
        return Features(self.manifold.features(z).mean, None)


def as_manifold(decoder: Any, latent_dim: Optional[int] = None, dtype: tf.DType = tf.float32) -> Manifold:
    """Returns the manifold of a decoder.

    Args:
      decoder: a `Manifold`; or an object with `mean_and_members(z)` or `mean_and_std(z)`, or a callable z (n, d) ->
        (n, ...), of TensorFlow operations.
      latent_dim: d, where the decoder has no attribute of that name.
      dtype: float type of all computations.

    Raises UserError for anything else, for an ensemble without members, and for a decoder that fails on latents (n, d),
    cannot be traced by TensorFlow, or returns another number of rows.
    """
    if isinstance(decoder, Manifold):
        return decoder
    found = latent_dim or getattr(decoder, "latent_dim", None) or _input_width(decoder)
    if not found:
        raise UserError("The number of latents of this decoder cannot be known; give latent_dim.")
    for name, kind in (("mean_and_members", Ensemble), ("mean_and_std", MeanAndStd)):
        if hasattr(decoder, name):
            return _probed(kind, decoder, int(found), dtype)
    if not callable(decoder):
        raise UserError(f"A decoder is a callable, or has mean_and_members(z) or mean_and_std(z); received "
                        f"{type(decoder).__name__}.")
    return _probed(Deterministic, decoder, int(found), dtype)


def _probed(kind: type, decoder: Any, latent_dim: int, dtype: tf.DType) -> Embedded:
    """Returns the manifold of a decoder that has been called once, and once as a compiled program calls it."""
    told = f"on latents of shape {(PROBE_ROWS, latent_dim)}, {dtype.name}"
    try:
        manifold = kind(decoder, latent_dim, dtype)
        manifold.features(tf.zeros((PROBE_ROWS, latent_dim), dtype))  # an unbuilt network makes its variables here
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"The decoder failed {told}: {_first_line(error)}") from error
    try:
        traced = tf.function(manifold.features, autograph=False).get_concrete_function(
            tf.TensorSpec((PROBE_ROWS, latent_dim), dtype))  # fmt: skip
    except Exception as error:
        raise UserError("The decoder runs, but TensorFlow cannot compile it; it must be made of TensorFlow operations, "
                        f"not of NumPy's: {_first_line(error)}") from error
    rows = traced.structured_outputs[0].shape[0]
    if rows not in (None, PROBE_ROWS):
        raise UserError(f"The decoder returned {rows} rows {told}; it must return one for each latent.")
    return manifold


def _first_line(error: Exception) -> str:
    words = str(error).strip() or "no message"
    return f"{type(error).__name__}: {words.splitlines()[0][:300]}"


def _input_width(decoder: Any) -> Optional[int]:
    shape = getattr(decoder, "input_shape", None)
    return shape[-1] if isinstance(shape, tuple) and len(shape) == 2 else None


def _flat(values: Any, dtype: tf.DType) -> tf.Tensor:
    """Returns decoder outputs (n, ...) as (n, P)."""
    if isinstance(values, (tuple, list, dict)):  # TensorFlow would stack a tuple, and call it one output
        raise UserError(f"A decoder returns one tensor (n, ...); received a {type(values).__name__} of {len(values)}. "
                        "A mean and a std, or members, come from mean_and_std(z) or mean_and_members(z).")
    values = tf.cast(values, dtype)
    return values if values.shape.rank == 2 else tf.reshape(values, (-1, math.prod(values.shape[1:])))


def flatten(z: tf.Tensor, dtype: tf.DType) -> tuple[tf.Tensor, list]:
    """Returns z (..., d) as (n, d) of a float type, and the sizes of the axes before the last."""
    z = tf.cast(z, dtype)
    lead = [size if size is not None else tf.shape(z)[axis] for axis, size in enumerate(z.shape[:-1])]
    return tf.reshape(z, (-1, z.shape[-1])), lead


def _products(slopes: tf.Tensor) -> tf.Tensor:
    """Returns sum over q and p of slopes_i slopes_j for slopes (d, q, n, p): (n, d, d)."""
    d = slopes.shape[0]
    if d > UNROLLED:
        return tf.einsum("iqnp,jqnp->nij", slopes, slopes)
    table = {(i, j): tf.reduce_sum(slopes[i] * slopes[j], axis=(0, -1)) for i in range(d) for j in range(i, d)}
    rows = [tf.stack([table[min(i, j), max(i, j)] for j in range(d)], axis=-1) for i in range(d)]
    return tf.stack(rows, axis=-2)


def differences(values: tf.Tensor) -> tf.Tensor:
    """Returns values[k + 1] - values[k] along the axis before the last."""
    return values[..., 1:, :] - values[..., :-1, :]
