"""Signatures that search: restorations of what is partly seen, and geodesics, both by loops inside the graph."""

import math
from typing import Any, Callable

import tensorflow as tf

from pae_zoo import geometry, inference
from pae_zoo.core import seeds
from pae_zoo.core.inputs import only_finite

# Of each restoration: prior draws of which the search starts from the best, those starts, and posterior draws.
BANK, STARTS, DRAWS = 128, 4, 64
# Bytes that the derivatives of the rows that are restored at once may take, and most such rows.
RESTORED_BYTES, RESTORED_ROWS = 2**26, 64
# Points of a geodesic that are answered, and the seed of decoders that a model draws once for all geodesics.
PATH_POINTS, DECODER_SEED = 16, (0, 0)


def restoration(model: Any) -> Callable[..., dict[str, tf.Tensor]]:
    """Returns the function of (x, mask, seed) behind `restore`: x and mask (batch, *event), mask 1 where x is seen.

    It answers map, mean and std, each (batch, *event), in the units of x. The maximum of log p(u, x_seen) is searched
    from the encoding and from the prior draws that explain best what is seen, by the fixed schedule of
    `inference.find_modes`; mean and std are of decoder means over draws of the Gaussian mixture at the maxima, with
    Gauss-Newton curvature. Hidden values of x may be anything; a seen one that is not finite, or a mask that is not,
    makes its row NaN. The function raises NotImplementedError for a likelihood that is no product of Gaussian or
    Bernoulli values.
    """

    def restore(x, mask, seed):
        posterior = inference.Incomplete(model, inference.observed(model.likelihood))
        bank_seed, filling_seed, encode_seed, draw_seed = seeds.split(seed, 4)
        axes, size, latents = list(range(1, x.shape.rank)), math.prod(model.event_shape), model.latent_dim
        seen, finite = mask > 0.5, tf.math.is_finite(x)
        told = tf.reduce_all(finite | ~seen, axes) & tf.reduce_all(tf.math.is_finite(mask), axes)
        filled = tf.cast(tf.where(finite, x, tf.constant(0.5, x.dtype)), model.float_type)
        bank = posterior.prior.sample(BANK, seed=bank_seed)
        decoded = posterior.decode(bank)[:, None]

        def some(x, seen):
            problem = posterior.problem(x, seen)
            starts = inference.best(bank, problem.log_likelihood_of(decoded), STARTS)
            encoding = posterior.encoding(x, seen, filling_seed, encode_seed)
            runs = inference.find_modes(problem, tf.concat([encoding[None], starts], axis=0))
            modes = inference.laplace(runs.u, runs.log_joint, problem.gauss_newton(runs.u))
            mixture = inference.mixture(modes)
            draws = tf.reshape(mixture.sample(DRAWS, draw_seed), (-1, latents))
            pictures = tf.reshape(posterior.picture(draws), (DRAWS, -1, *model.event_shape))
            return [posterior.picture(mixture.modes.mean[0]), tf.reduce_mean(pictures, axis=0),
                    tf.math.reduce_std(pictures, axis=0)]  # fmt: skip

        rows = RESTORED_BYTES // (4 * (STARTS + 1) * latents * size)
        found = in_turns(some, [filled, seen], min(max(rows, 1), RESTORED_ROWS))
        given = tf.where(told, 0.0, math.nan)[:, None]
        return {name: only_finite(value, given, len(axes)) for name, value in zip(("map", "mean", "std"), found)}

    return restore


def geodesics(model: Any) -> Callable[..., dict[str, tf.Tensor]]:
    """Returns the function of (start, end), latents (batch, K) each, behind `geodesic`.

    It answers z, (batch, 16, K): points of the geodesics at even times, both ends included; x, (batch, 16, *event):
    what they decode to; length, (batch,): under the expected metric, in the units of y; converged, (batch,). The
    manifold is that of `model.geometry_decoder`, whose draws, where it draws any, are made once, by a fixed seed.
    """

    manifold = geometry.as_manifold(model.geometry_decoder(seed=DECODER_SEED), model.latent_dim, model.float_type)
    solver = geometry.Solver(manifold, geometry.Settings(jit_compile=False))

    def geodesic(start, end):
        def some(start, end):
            return solver.path(start, end, PATH_POINTS)

        points, length, converged = in_turns(some, [start, end], solver.rows)
        frames = model.decode_mean(tf.reshape(points, (-1, model.latent_dim)))
        frames = tf.reshape(frames, (-1, PATH_POINTS, *model.event_shape))
        return {"z": points, "x": frames, "length": length, "converged": converged}

    return geodesic


def in_turns(function: Callable[..., Any], tensors: list[tf.Tensor], rows: int) -> list[tf.Tensor]:
    """Returns what `function` gives for tensors (batch, ...), worked on `rows` rows at a time: its memory is bounded.

    Row i of its results depends on row i of what it is given alone. The batch may be of any size, unknown in a graph.
    """
    total = tf.shape(tensors[0])[0]
    tensors = [tf.ensure_shape(tf.broadcast_to(value, tf.concat([[total], tf.shape(value)[1:]], axis=0)), value.shape)
               for value in tensors]  # a batch of another size is refused here
    example = tf.function(function, autograph=False).get_concrete_function(*map(_unknown_batch, tensors))
    specs = [tf.TensorSpec((None, *out.shape[1:]), out.dtype) for out in example.outputs]
    count = tf.maximum(-(-total // rows), 1)

    def body(number, arrays):
        here = [value[number * rows : (number + 1) * rows] for value in tensors]
        found = tf.nest.flatten(example(*here))
        return number + 1, [array.write(number, part) for array, part in zip(arrays, found)]

    arrays = [tf.TensorArray(spec.dtype, count, element_shape=spec.shape, infer_shape=False) for spec in specs]
    _, arrays = tf.while_loop(lambda number, _: number < count, body, (tf.constant(0), arrays), parallel_iterations=1)
    return [tf.ensure_shape(array.concat(), spec.shape) for array, spec in zip(arrays, specs)]


def _unknown_batch(tensor: tf.Tensor) -> tf.TensorSpec:
    return tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype)
