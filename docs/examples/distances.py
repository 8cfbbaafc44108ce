"""How far apart are two codes, if ways through what the decoders do not know are long?

Prints:

geodesics converged: True
shorter than the straight line under the same metric: True
"""

import numpy as np

import pae_zoo
from pae_zoo import geometry

digits = pae_zoo.data.load("digits", classes=(0, 1, 4))
encoder = pae_zoo.networks.build_encoder("mlp", (8, 8, 1), latent_dim=2, hidden_units=(32,), activation="elu")
decoders = [pae_zoo.networks.build_decoder("mlp", (8, 8, 1), latent_dim=2, hidden_units=(32,), activation="elu", seed=s)
            for s in range(3)]
model = pae_zoo.EnsembleVAE(encoder, decoders)
model.compile("adam")
model.fit(digits.train.x, epochs=20, batch_size=32, verbose=0)

codes = model.encode(digits.test.x[:8]).mean().numpy()
manifold = geometry.as_manifold(model.geometry_decoder(), 2)
solver = geometry.Solver(manifold, geometry.Settings(energy="coupled", jit_compile=False))
found, straight = solver.solve(codes[:4], codes[4:]), solver.straight(codes[:4], codes[4:])
print("geodesics converged:", found.converged.all())
shorter = found.lengths["rms"] <= 1.001 * straight.lengths["rms"]
print("shorter than the straight line under the same metric:", np.all(shorter))
