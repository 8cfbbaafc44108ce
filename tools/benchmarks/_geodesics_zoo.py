"""What takes turns in `benchmark.py geodesics`: each contender solves pairs of one ensemble in its own process."""

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks._memory import Memory
from benchmarks._rounds import Baton

# Points of the curve on which all contenders' results are judged, by one closed form.
JUDGED_POINTS = 257


def train(workdir: str, latent_dim: int, hidden_units: str, num_members: int, epochs: int) -> None:
    """Trains an ensemble_vae on the embedded digits, enlarged to 28 by 28 pixels."""
    command = [
        sys.executable, "-m", "pae_zoo.main", "--model=ensemble_vae", "--dataset=digits", "--image_size=28",
        f"--latent_dim={latent_dim}", f"--hidden_units={hidden_units}", f"--num_members={num_members}",
        "--likelihood=gaussian", "--scale=0.70710678", "--beta=0.05", f"--epochs={epochs}", "--lr_schedule=cosine",
        "--tasks=reconstruction", f"--workdir={workdir}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"training for the benchmark failed:\n{done.stderr[-2000:]}")


def export(workdir: str, pairs: int) -> None:
    """Writes the decoders' weights and the ends of pairs to pairs.npz of the run, for a library without TensorFlow."""
    _, start, end, decoder = load(workdir, pairs)
    weights = {f"weight_{number}": np.array(weight) for number, weight in enumerate(decoder.weights)}
    np.savez(Path(workdir) / "pairs.npz", start=start, end=end, **weights)


def load(workdir: str, pairs: int):
    """Returns (manifold, start, end, decoder): the ensemble of a run, and the codes of pairs of its test data."""
    from pae_zoo import geometry
    from pae_zoo.experiment import launch
    from pae_zoo.experiment.workdir import Run

    run = Run(workdir)
    model, dataset = run.load_model(), launch.load_dataset(run.read_hparams())
    codes = model.encode(dataset.test.x[:256]).mean().numpy()
    first, second = np.random.default_rng(67).integers(0, len(codes), (2, 4 * pairs))
    chosen = np.flatnonzero(first != second)[:pairs]
    manifold = geometry.as_manifold(model.geometry_decoder(model.num_members, (0, 0)), model.latent_dim)
    return manifold, codes[first[chosen]], codes[second[chosen]], model.decoder


def write_aim(workdir: str, energy: float) -> None:
    """Writes down the mean energy of a search, for `reach`."""
    (Path(workdir) / "aim.json").write_text(json.dumps(energy))


def reach(baton: Baton, workdir: str, pairs: int, **settings) -> None:
    """Times `solve` with the fewest steps, of 1, 2, 4 and so on, after which the energy is that of `write_aim` or less.

    All its steps where these do not suffice.
    """
    from pae_zoo import geometry

    manifold, start, end, _ = load(workdir, pairs)
    judge = geometry.Solver(manifold, geometry.Settings(num_points=JUDGED_POINTS))
    aim, most = json.loads((Path(workdir) / "aim.json").read_text()), geometry.Solver(manifold).steps
    steps = 1
    while steps < most:
        found = geometry.Solver(manifold, geometry.Settings(steps=steps, **settings)).solve(start, end)
        if judge.energy(found.curves).mean() <= aim:
            break
        steps = min(2 * steps, most)
    solve(baton, workdir, pairs, steps=steps, **settings)


def solve(baton: Baton, workdir: str, pairs: int, one_by_one: bool = False, anew: bool = False, **settings) -> None:
    """Times geodesics between `pairs` pairs, all in one call or each in its own; a step of the baton is a geodesic.

    anew: whether each call builds and compiles its own solver. Results of the coupled energy are judged by that one.
    """
    from pae_zoo import geometry

    manifold, start, end, _ = load(workdir, pairs)
    solver = geometry.Solver(manifold, geometry.Settings(**settings))
    judged = "coupled" if settings.get("energy") == "coupled" else "decorrelated"
    judge = geometry.Solver(manifold, geometry.Settings(energy=judged, num_points=JUDGED_POINTS))
    memory = Memory()
    calls = [slice(i, i + 1) for i in range(pairs)] if one_by_one else [slice(0, pairs)]
    solver.solve(start[calls[0]], end[calls[0]])  # compiles
    while True:
        baton.start()
        found = []
        for call in calls:
            if anew:
                solver = geometry.Solver(manifold, geometry.Settings(**settings))
            found.append(solver.solve(start[call], end[call]))
        wall, cpu = time.perf_counter(), time.process_time()
        notes = dict(
            energy=float(np.concatenate([judge.energy(one.curves) for one in found]).mean()),
            converged=float(np.mean(np.concatenate([one.converged for one in found]))),
            searched=float(np.mean(np.concatenate([one.steps for one in found]))),
            memory_mib=memory.peak(),
        )  # fmt: skip
        baton.stop(pairs, (time.perf_counter() - wall, time.process_time() - cpu), **notes)


def products(baton: Baton, size: int, repeats: int) -> None:
    """Times products of square matrices: the most that the machine gives. A step is 10^9 multiplications."""
    import tensorflow as tf

    left = tf.random.stateless_normal((size, size), (0, 1))
    product = tf.function(lambda a: tf.matmul(a, left) / math.sqrt(size), jit_compile=True)
    product(left).numpy()
    while True:
        baton.start()
        value = left
        for _ in range(repeats):
            value = product(value)
        value.numpy()
        baton.stop(repeats * size**3 / 1e9)
