"""How far apart are two codes, if ways through what the decoder does not know are long?

Prints:

straight through the hole: [6.3 6.6 6.3]
around it: [3.4 3.2 3.4] converged: True
"""

import matplotlib.pyplot as plt
import numpy as np

import pae_zoo
from pae_zoo import geometry

x = pae_zoo.data.load("circle").train.x  # points on a noisy ring
model = pae_zoo.GPCircle.from_parts(event_shape=(2,), latent_dim=2, num_points=100, length_scale=0.5)
model.adapt(x)  # nothing is trained
codes = model.codes(x[:500]).numpy()

manifold = model.geometry_decoder()  # of a trained model of the zoo too: its decoder, certain or not
graph = geometry.GridGraph.around(manifold, codes, side=24, jit_compile=False)
settings = geometry.Settings(energy="coupled", init="graph", jit_compile=False)
solver = geometry.Solver(manifold, settings, graph)
angle = np.array([0.3, 1.3, 2.3])
start = np.sqrt(2) * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
found, straight = solver.solve(start, -start), solver.straight(start, -start)
print("straight through the hole:", straight.lengths["rms"].round(1))
print("around it:", found.lengths["rms"].round(1), "converged:", found.converged.all())

plt.figure(figsize=(5, 5))
plt.scatter(*codes.T, s=4)
for curve in found.curves(np.linspace(0, 1, 100)):
    plt.plot(*curve.T, color="black")
plt.savefig("distances.png")
