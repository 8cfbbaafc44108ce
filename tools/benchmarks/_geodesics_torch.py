"""stochman on the side of PyTorch: the same ensemble, its coupled energy, in a process of its own."""

import time
from pathlib import Path

import numpy as np

from benchmarks._geodesics_zoo import JUDGED_POINTS
from benchmarks._memory import Memory
from benchmarks._rounds import Baton, cores


def solve(baton: Baton, workdir: str, pairs: int) -> None:
    """Times `connecting_geodesic` of stochman between all pairs at once; a step of the baton is a geodesic.

    The members' outputs side by side, divided by the root of their number, are an embedding whose energy is the coupled
    one. Its search is stochman's own: a spline of four pieces, 20 points, at most 150 steps of Adam.
    """
    import torch  # here, for the process that hands out the turns has TensorFlow, and the two crash each other
    from stochman.manifold import EmbeddedManifold

    torch.set_num_threads(cores())
    stored = np.load(Path(workdir) / "pairs.npz")
    weights = [torch.from_numpy(stored[f"weight_{number}"]) for number in range(len(stored.files) - 2)]
    first, last = (torch.from_numpy(stored[name][:pairs].astype(np.float32)) for name in ("start", "end"))
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

    times, memory = torch.linspace(0, 1, JUDGED_POINTS), Memory()
    while True:
        baton.start()
        curve, success = Decoders().connecting_geodesic(first, last)
        wall, cpu = time.perf_counter(), time.process_time()
        with torch.no_grad():
            points = curve(times)
            parts = [Decoders().embed(one).diff(dim=0).square().sum() * (JUDGED_POINTS - 1) for one in points]
        notes = dict(energy=float(torch.stack(parts).mean()), converged=float(success),
                     memory_mib=memory.peak())  # fmt: skip
        baton.stop(pairs, (time.perf_counter() - wall, time.process_time() - cpu), **notes)
