"""The published search for geodesics of an ensemble, transcribed from its formulas; one program for each pair.

Syrota et al., arXiv 2408.07507, as their code runs it: a cubic spline in the powers of time, 256 points, a member drawn
for every point in every step, Adam, the curve of the least drawn energy. The configurations of the paper's experiments
have a rate of 0.1, the released default one of 0.01.
"""

import time

import numpy as np

from benchmarks._geodesics_zoo import JUDGED_POINTS, load, write_aim
from benchmarks._memory import Memory
from benchmarks._rounds import Baton

POINTS, PIECES, STEPS = 256, 10, 4096
RATE, RELEASED_RATE = 0.1, 0.01
# The search ends after so many steps (0: never) in which the drawn energy did not fall by so much below the least one.
PATIENCE, LEAST_FALL = 100, 1e-4


def basis(times: np.ndarray) -> np.ndarray:
    """Returns the functions of the published spline at times (T,), shape (T, PIECES + 1), float64.

    Cubics of the global time on equal pieces, 0 at both ends, with two continuous derivatives: an orthonormal basis of
    the null space of these conditions, by a full singular value decomposition.
    """
    conditions = [_row(0.0, 0, 0), _row(1.0, PIECES - 1, 0)]
    for knot in range(1, PIECES):
        at = knot / PIECES
        conditions += [_row(at, knot - 1, order) - _row(at, knot, order) for order in range(3)]
    _, _, rows = np.linalg.svd(np.array(conditions), full_matrices=True)
    pieces = np.clip(np.floor(times * PIECES).astype(int), 0, PIECES - 1)
    return np.stack([_row(t, piece, 0) for t, piece in zip(times, pieces)]) @ rows[len(conditions) :].T


def _row(t: float, piece: int, order: int) -> np.ndarray:
    """Returns the powers 0 to 3 of t, or their derivative, in the place of a piece, (4 PIECES,)."""
    powers = np.array([np.polynomial.Polynomial.basis(power).deriv(order)(t) if order <= power else 0.0
                       for power in range(4)])  # fmt: skip
    found = np.zeros((PIECES, 4))
    found[piece] = powers
    return found.ravel()


def search(manifold, steps: int = STEPS, patience: int = PATIENCE, rate: float = RATE):
    """Returns a compiled function (start (d,), end (d,), seed) -> (weights (PIECES + 1, d), steps taken)."""
    import tensorflow as tf

    from pae_zoo.core import seeds
    from pae_zoo.geometry.descent import FIRST_MOMENT, SECOND_MOMENT

    times = np.linspace(0.0, 1.0, POINTS)
    functions, t = tf.constant(basis(times), tf.float32), tf.constant(times[:, None], tf.float32)

    def drawn(weights, start, end, seed):
        members = manifold.members(start + t * (end - start) + functions @ weights)
        chosen = tf.cast(seeds.uniform((POINTS,), seed) * members.shape[0], tf.int32)
        picked = tf.gather(tf.transpose(members, (1, 0, 2)), chosen, batch_dims=1)
        return POINTS * tf.reduce_sum(tf.square(picked[1:] - picked[:-1]))

    def run(start, end, seed):
        def body(step, weights, first, second, best, best_weights, mark):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                energy = drawn(weights, start, end, seeds.fold_in(seed, step))
            gradient = tape.gradient(energy, weights)
            mark = tf.where(energy < best - LEAST_FALL, step, mark)
            first = FIRST_MOMENT * first + (1 - FIRST_MOMENT) * gradient
            second = SECOND_MOMENT * second + (1 - SECOND_MOMENT) * tf.square(gradient)
            count = tf.cast(step + 1, weights.dtype)
            move = rate * first / (1 - FIRST_MOMENT**count) / (tf.sqrt(second / (1 - SECOND_MOMENT**count)) + 1e-8)
            # As published: the weights after the step stand for the energy before it.
            best_weights = tf.where(energy < best, weights - move, best_weights)
            return step + 1, weights - move, first, second, tf.minimum(energy, best), best_weights, mark

        zeros = tf.zeros((functions.shape[1], start.shape[0]))
        state = (tf.constant(0), zeros, zeros, zeros, tf.constant(np.inf, tf.float32), zeros, tf.constant(0))
        goes_on = lambda step, *rest: (step < steps) & (step - rest[-1] <= (patience or steps))  # noqa: E731
        state = tf.while_loop(goes_on, body, state, parallel_iterations=1)
        return state[5], state[0]

    return tf.function(run, jit_compile=True, autograph=False)


def solve(baton: Baton, workdir: str, pairs: int, steps: int = STEPS, patience: int = PATIENCE,
          rate: float = RATE) -> None:
    """Times the published search for `pairs` pairs, one after the other; a step of the baton is a geodesic.

    It is compiled once, before the first turn, which is kind to it: the published code compiles for every batch. Time
    is scaled up where `steps` are fewer than published and the search would have gone on.
    """
    import tensorflow as tf

    from pae_zoo.geometry import energies

    manifold, start, end, _ = load(workdir, pairs)
    start, end = (tf.constant(ends, tf.float32) for ends in (start, end))
    find, memory = search(manifold, steps, patience, rate), Memory()
    times = np.linspace(0.0, 1.0, JUDGED_POINTS)
    functions, t = tf.constant(basis(times), tf.float32), tf.constant(times[:, None], tf.float32)
    find(start[0], end[0], tf.constant((67, 0), tf.int32))  # compiles, and runs once
    while True:
        baton.start()
        found = [find(a, b, tf.constant((67, number), tf.int32)) for number, (a, b) in enumerate(zip(start, end))]
        taken = np.array([int(count) for _, count in found])
        wall, cpu = time.perf_counter(), time.process_time()
        curves = [a + t * (b - a) + functions @ weights for a, b, (weights, _) in zip(start, end, found)]
        judged = energies.energy(manifold.segments(tf.stack(curves)), "decorrelated")
        if rate == RATE:
            write_aim(workdir, float(np.mean(judged)))
        notes = dict(energy=float(np.mean(judged)), converged=float(np.mean(taken < steps)),
                     searched=float(taken.mean()), memory_mib=memory.peak())  # fmt: skip
        whole = np.where(taken < steps, taken, STEPS)
        baton.stop(pairs * taken.sum() / whole.sum(), (time.perf_counter() - wall, time.process_time() - cpu), **notes)
