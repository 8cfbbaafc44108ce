"""Replicas that share batches do what one device does: noise, losses, gradients, state."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.core import parts, seeds
from pae_zoo.core.errors import UserError

RUNS = Path(__file__).with_name("replica_runs.py")
TOOLS = Path(__file__).resolve().parents[2] / "tools"


def compared(*command):
    """Returns what the script prints of each model."""
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def same(found):
    # Adam divides rounding by the root of a square that may be as small; the losses are those of ten steps.
    return all(one["metrics"] < 1e-5 and one["weights"] < 1e-4 for one in found)


def test_ten_steps_on_two_replicas_are_those_of_one_device():
    found = compared(RUNS, "vae", "2")
    assert same(found), found


@pytest.mark.full
@pytest.mark.parametrize("devices", [2, 4])
def test_every_model_that_divides_its_batches(devices):
    found = compared(RUNS, "ae,vlae,ensemble_vae,flow_vae,lae,flow,pae", devices)
    assert len(found) == 7 and same(found), found


@pytest.mark.full
def test_two_processes_are_one_device():
    found = compared(TOOLS / "local_cluster.py", "2", "--", sys.executable, RUNS, "vae,pae", "workers")
    assert len(found) == 2 and same(found), found


def pieces(draw, total, count):
    for number in range(count):
        offset, size = parts.divided(number, count, total)
        with parts.taken(parts.Part(offset, size, total)):
            yield draw(size)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_have_the_noise_of_the_whole(count):
    whole = seeds.normal((7, 3), (1, 2))
    # Not bit for bit: an operation on vectors takes the last numbers of an array one by one.
    np.testing.assert_allclose(whole, tf.concat(list(pieces(lambda n: seeds.normal(
        (n, 3), (1, 2), batch=0), 7, count)), 0), rtol=1e-6)
    whole = seeds.uniform((2, 7, 3), (1, 2))
    np.testing.assert_array_equal(whole, tf.concat(list(pieces(lambda n: seeds.uniform(
        tf.constant((2, n, 3)), (1, 2), batch=1), 7, count)), 1))


def test_batches_one_after_the_other_have_the_noise_of_the_whole():
    whole = tf.reshape(seeds.normal((3 * 7, 2), (1, 2)), (3, 7, 2))
    found = [tf.reshape(one, (3, -1, 2)) for one in pieces(lambda n: seeds.normal((3 * n, 2), (1, 2), batch=0), 7, 3)]
    np.testing.assert_allclose(whole, tf.concat(found, 1), rtol=1e-6)


def test_more_parts_than_rows():
    found = list(pieces(lambda n: seeds.normal((n, 3), (1, 2), batch=0), 2, 3))
    np.testing.assert_allclose(seeds.normal((2, 3), (1, 2)), tf.concat(found, 0), rtol=1e-6)


def test_noise_that_belongs_to_nobody_is_refused():
    with pytest.raises(UserError, match="Train it on one device"):
        list(pieces(lambda n: seeds.normal((n, 3), (1, 2)), 4, 2))
    list(pieces(lambda n: seeds.normal((5,), (1, 2), batch=None), 4, 2))


def test_shares_sum_up_to_the_mean():
    values, weight = tf.constant([1.0, 5.0, 3.0, 8.0, 2.0]), tf.constant([1.0, 0.0, 2.0, 1.0, 3.0])
    for given in (None, weight):
        total = 0.0
        for number in range(2):
            offset, size = parts.divided(number, 2, 5)
            with parts.taken(parts.Part(offset, size, 5, None, given)) as part:
                total += parts.mean(part.rows(values), part.rows(given))
        np.testing.assert_allclose(total, parts.mean(values, given), rtol=1e-6)
