"""stochman on the side of PyTorch: the same ensemble, its coupled energy, in a process of its own."""

import time

import numpy as np

from benchmarks import _geodesics_zoo
from benchmarks._memory import Memory
from benchmarks._rounds import Baton


def solve(baton: Baton, workdir: str, pairs: int) -> None:
    """Times `connecting_geodesic` of stochman between all pairs at once; a step of the baton is a geodesic.

    The members' outputs side by side, divided by the root of their number, are an embedding whose energy is the coupled
    one. Its search is stochman's own: a spline of four pieces, 20 points, at most 150 steps of Adam.
    """
    import tensorflow as tf
    import torch
    from stochman.manifold import EmbeddedManifold

    from pae_zoo import geometry

    manifold, start, end, decoder = _geodesics_zoo.load(workdir, pairs)
    weights = [torch.from_numpy(np.array(weight)) for weight in decoder.weights]
    members = weights[0].shape[0]

    class Decoders(EmbeddedManifold):
        def embed(self, points, jacobian=False):
            flat = points.reshape(-1, points.shape[-1])
            values = flat.expand(members, *flat.shape)
            for layer in range(0, len(weights), 2):
                values = torch.baddbmm(weights[layer + 1][:, None], values, weights[layer])
                if layer < len(weights) - 2:
                    values = torch.relu(values)
            values = values.permute(1, 0, 2).reshape(*points.shape[:-1], -1)
            return values / members**0.5

    first, last = (torch.tensor(ends, dtype=torch.float32) for ends in (start, end))
    times = torch.linspace(0, 1, _geodesics_zoo.JUDGED_POINTS)
    probe = manifold.members(tf.constant(start[:3], tf.float32)).numpy() / members**0.5
    ours = Decoders().embed(first[:3]).reshape(3, members, -1).permute(1, 0, 2).numpy()
    np.testing.assert_allclose(probe, ours, rtol=1e-3, atol=1e-4)
    memory = Memory()
    while True:
        baton.start()
        curve, success = Decoders().connecting_geodesic(first, last)
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            points = tf.constant(curve(times).numpy())
        parts = [geometry.energy(manifold.segments(points[i : i + 1]), "coupled").numpy() for i in range(pairs)]
        notes = dict(energy=float(np.mean(parts)), converged=float(success), searched=150.0, memory_mib=memory.peak())
        baton.stop(pairs, (time.perf_counter() - wall, time.process_time() - cpu), **notes)
