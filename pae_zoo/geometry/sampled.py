"""The published one-sample estimator of the decorrelated energy, for comparison."""

import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.geometry import energies as energies_lib
from pae_zoo.geometry.manifold import Ensemble, Segments


def energies(
    manifold: Ensemble, z: tf.Tensor, numbers: tf.Tensor, seed: seeds.Seed
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns (sampled energies, their expectations) of curves z (B, T, d), each (B,).

    n sum_k |f_{s_{k+1}}(z_{k+1}) - f_{s_k}(z_k)|^2 with a member s_k drawn for every point (arXiv 2408.07507, code,
    which has the factor n + 1). Curve b draws from (seed, numbers[b]), whatever curves are beside it.
    """
    size, points = tf.shape(z)[0], z.shape[1]
    members = manifold.members(tf.reshape(z, (-1, z.shape[2])))
    count = members.shape[0]
    members = tf.reshape(members, (count, size, points, members.shape[-1]))
    chosen = tf.map_fn(
        lambda n: tf.cast(seeds.uniform((points,), seeds.fold_in(seed, n)) * count, tf.int32), numbers)
    mask = tf.transpose(tf.one_hot(chosen, count, dtype=z.dtype), (2, 0, 1))
    picked = tf.einsum("sbt,sbtp->btp", mask, members)
    steps = tf.reduce_sum(tf.square(picked[:, 1:] - picked[:, :-1]), axis=-1)
    mean = tf.reduce_mean(members, axis=0)
    variance = tf.reduce_mean(tf.reduce_sum(tf.square(members - mean), axis=-1), axis=0)
    mean_steps = tf.reduce_sum(tf.square(mean[:, 1:] - mean[:, :-1]), axis=-1)
    expectation = energies_lib.energy(Segments(mean_steps, mean_steps, variance), "decorrelated", None)
    return (points - 1) * tf.reduce_sum(steps, axis=-1), tf.stop_gradient(expectation)
