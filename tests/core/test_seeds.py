"""Stateless noise: equal under XLA, right moments, no hidden state."""

import ast
import re
from pathlib import Path

import battery
import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.core import seeds, trainable
from pae_zoo.core.errors import UserError
from pae_zoo.models import ae, bayesian, bbb_ae, ensemble_vae, lae, lae_posthoc


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
    np.testing.assert_array_equal(seeds.uniform((40, 6), (1, 2))[:7], seeds.uniform((7, 6), (1, 2)))
    # The last values of a tensor are inverted one by one, by other instructions than the rest.
    np.testing.assert_allclose(seeds.normal((40, 6), (1, 2))[:7], seeds.normal((7, 6), (1, 2)), rtol=1e-6)


def test_seeds_differ():
    parts = seeds.split((1, 2), 4) + [seeds.fold_in((1, 2), i) for i in range(4)]
    assert len({tuple(part.numpy()) for part in parts}) == 8


def test_permutation():
    order = seeds.permutation(1000, (0, 7)).numpy()
    assert sorted(order) == list(range(1000))
    assert not np.array_equal(order, seeds.permutation(1000, (0, 8)).numpy())


@pytest.mark.parametrize("seed", [
    (1,), (1, 2, 3), (), ((1, 2),), "12", "a", None, 1.0, (0.5, 1), True, (True, 1), (None, 1), np.array([1.0, 2.0]),
    np.zeros((2, 1), int), tf.constant([1.0, 2.0]), tf.constant([1, 2, 3]), tf.constant(True),
    tf.zeros((2, 1), tf.int32),
], ids=repr)  # fmt: skip
def test_a_seed_is_an_integer_or_a_pair(seed):
    with pytest.raises(UserError, match="one integer or a pair of integers"):
        seeds.as_seed(seed)


@pytest.mark.parametrize("seed", [
    7, np.int64(7), np.array(7), tf.constant(7), tf.constant(7, tf.int64), [7, 0], np.array([7, 0], np.uint8),
    tf.constant([7, 0], tf.uint32), [np.int32(7), 0]], ids=repr)  # fmt: skip
def test_one_integer_is_its_pair_with_zero(seed):
    np.testing.assert_array_equal(seeds.as_seed(seed), [7, 0])


def test_one_integer_is_taken_by_every_method():
    model = battery.built("vae")
    x = battery.images(2)
    for draw in (lambda seed: model.sample(2, seed), lambda seed: model.elbo(x, seed),
                 lambda seed: model.encode(x).sample(seed=seed), lambda seed: model.draw_codes(x, 2, seed),
                 lambda seed: model.decode(np.zeros((1, 3))).sample(seed=seed)):  # fmt: skip
        np.testing.assert_array_equal(draw(7), draw((7, 0)))


def test_large_words_are_taken_modulo_two_to_the_32():
    np.testing.assert_array_equal(seeds.as_seed((2**32 + 5, -1)), [5, -1])


def test_every_use_of_noise_has_a_stream_of_its_own():
    """Names of streams are told apart by their numbers; no code numbers a stream by hand."""
    package = Path(seeds.__file__).resolve().parents[1]
    names, by_hand = [], []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or len(node.args) < 2:
                continue
            last = node.args[-1]
            if node.func.attr == "fold_in" and isinstance(last, ast.Constant):
                by_hand.append(f"{path.name}:{node.lineno}")
            if node.func.attr == "stream":
                name = last.value if isinstance(last, ast.Constant) else ast.unparse(last).split(".")[-1]
                names.append(name)
    assert not by_hand, f"give these streams names by seeds.stream: {by_hand}"
    assert len(names) > 10
    known = [value for module in (trainable, ae, bayesian, bbb_ae, ensemble_vae, lae, lae_posthoc)
             for value in vars(module).values() if isinstance(value, str) and re.fullmatch(r"[a-z_]+/[a-z_]+", value)]
    known += [trainable.PREPROCESS, trainable.AUGMENT, trainable.VALIDATION]
    assert len(known) == len(set(known)) == len({seeds.number_of(name) for name in known}) >= 10


def test_streams_are_apart():
    draws = [seeds.normal([1000], seeds.stream((3, 4), name)).numpy() for name in ("lae/weights", "lae/probes")]
    draws.append(seeds.normal([1000], seeds.fold_in((3, 4), 0)).numpy())
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.15
    np.testing.assert_array_equal(seeds.stream((3, 4), "lae/weights"), seeds.stream((3, 4), "lae/weights"))
