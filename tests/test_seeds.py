"""Stateless noise: equal under XLA, right moments, no hidden state."""

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import seeds


@pytest.mark.parametrize("shape", [(5,), (7, 3), (130, 5)])
@pytest.mark.parametrize("draw", [seeds.normal, seeds.uniform])
def test_eager_equals_xla(draw, shape):
    compiled = tf.function(lambda seed: draw(shape, seed), jit_compile=True)
    np.testing.assert_allclose(draw(shape, (1, 2)), compiled(tf.constant([1, 2])), atol=2e-5)


def test_moments_and_tails():
    x = seeds.normal((1_000_000,), (3, 4)).numpy()
    assert abs(x.mean()) < 0.005 and abs(x.std() - 1) < 0.005
    assert abs((x**4).mean() - 3) < 0.05 and 4.5 < np.abs(x).max() < 5.4
    u = seeds.uniform((1_000_000,), (3, 4)).numpy()
    assert 0 < u.min() and u.max() < 1 and abs(u.mean() - 0.5) < 0.002


def test_rows_do_not_depend_on_their_number():
    np.testing.assert_array_equal(seeds.normal((40, 6), (1, 2))[:7], seeds.normal((7, 6), (1, 2)))


def test_seeds_differ():
    parts = seeds.split((1, 2), 4) + [seeds.fold_in((1, 2), i) for i in range(4)]
    assert len({tuple(part.numpy()) for part in parts}) == 8


def test_permutation():
    order = seeds.permutation(1000, (0, 7)).numpy()
    assert sorted(order) == list(range(1000))
    assert not np.array_equal(order, seeds.permutation(1000, (0, 8)).numpy())


@pytest.mark.parametrize("seed", [3, (1,), (1, 2, 3), "ab c"])
def test_a_seed_is_a_pair(seed):
    with pytest.raises(ValueError, match="pair of integers|invalid literal"):
        seeds.as_seed(seed)


def test_large_words_are_taken_modulo_two_to_the_32():
    np.testing.assert_array_equal(seeds.as_seed((2**32 + 5, -1)), [5, -1])
