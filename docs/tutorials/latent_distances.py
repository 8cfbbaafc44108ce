# %% [markdown]
# # How far apart are two images?
#
# An autoencoder gives each image a few numbers, its code, and it is tempting to measure the distance of images by the
# straight distance of their codes. But the units of a code were chosen by nobody: a step of 0.1 may change the image
# completely in one place and not at all in another.
#
# The remedy: measure a way by how much the *decoded image changes* along it, and ask several decoders at once, an
# *ensemble*: where there are data they agree, where there are none they do not, and that counts as change too. The
# shortest way between two codes is a *geodesic*, and its length is the distance.
#
# Here: four kinds of handwritten digits of scikit-learn, a training of a few seconds, and plain distances beside it.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from scipy.sparse.csgraph import shortest_path
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import kneighbors_graph

import pae_zoo
from pae_zoo import geometry
from pae_zoo.networks import build_decoder, build_encoder

digits = pae_zoo.data.load("digits")
kinds = (0, 1, 4, 7)
train = digits.train.x[np.isin(digits.train.y, kinds)]  # (n, 8, 8, 1), pixels from 0 to 1
test, labels = digits.test.x[np.isin(digits.test.y, kinds)], digits.test.y[np.isin(digits.test.y, kinds)]

keras.utils.set_random_seed(0)
model = pae_zoo.EnsembleVAE(
    build_encoder("mlp", (8, 8, 1), latent_dim=2, hidden_units=(64,), activation="elu", seed=1),
    [build_decoder("mlp", (8, 8, 1), latent_dim=2, hidden_units=(64,), activation="elu", seed=seed)
     for seed in range(10, 14)], beta=0.2)
model.compile(keras.optimizers.Adam(3e-3), jit_compile=False)
model.fit(train, epochs=40, batch_size=64, verbose=0)
codes = model.encode(test).mean().numpy()  # (n, 2)
print("images to learn from:", len(train), "new ones:", len(test), "decoders:", model.num_members)

# %% [markdown]
# ## The shortest ways
#
# `geometry` finds the geodesics of many pairs at once. The energy `coupled` measures how much a decoder drawn from the
# ensemble changes on the way, in the mean.

# %%
class Decoders:
    """The model's decoders, in codes of other units: `units` is 1 for those of the model."""

    latent_dim = 2
    units = tf.Variable([1.0, 1.0])

    def mean_and_members(self, z):
        return model.mean_and_members(z / self.units)


manifold = geometry.as_manifold(Decoders())  # of the model as it is: geometry.as_manifold(model.geometry_decoder(), 2)
solver = geometry.Solver(manifold, geometry.Settings(energy="coupled", jit_compile=False))
generator = np.random.default_rng(0)
first, second = generator.integers(0, len(test), (2, 80))
found = solver.solve(codes[first], codes[second])
print("pairs:", len(first), "converged:", found.converged.sum())

# %%
sides = np.linspace(codes.min(axis=0) - 0.3, codes.max(axis=0) + 0.3, 60).T
grid = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
magnification = geometry.Fields(manifold, jit_compile=False).log_volume(grid).reshape(60, 60)
shown = np.argsort(-found.lengths["rms"])[:8]
figure, axis = plt.subplots(figsize=(7, 5), layout="constrained")
picture = axis.pcolormesh(*sides, magnification, cmap="Greys", shading="nearest")
figure.colorbar(picture, label="log of how much images change by a small step")
for kind in kinds:
    axis.scatter(*codes[labels == kind].T, s=14, label=f"digit {kind}")
for k, curve in zip(shown, found.curves(np.linspace(0, 1, 50))[shown]):
    axis.plot(*curve.T, color="black", linewidth=1, label="geodesic" if k == shown[0] else None)
axis.set_xlabel("code 1")
axis.set_ylabel("code 2")
axis.set_title("Codes of new digits, and the eight longest geodesics")
axis.legend(loc="upper right", fontsize=8)
plt.show()

# %% [markdown]
# In dark places a small step changes the image much. Along a geodesic one can also walk in steps of equal *change*,
# where equal steps of the code change little here and much there.

# %%
k = shown[0]
ways = {"equal change": found.curves(solver.lengths.at_equal_lengths(found.curves, 10))[k],
        "equal steps": codes[first[k]] + np.linspace(0, 1, 10)[:, None] * (codes[second[k]] - codes[first[k]])}
figure, axes = plt.subplots(2, 1, figsize=(8, 2.2), layout="constrained")
for axis, (name, way) in zip(axes, ways.items()):
    decoded = model.decode_mean(tf.constant(way, tf.float32)).numpy()[..., 0]
    axis.imshow(np.concatenate(np.pad(decoded, ((0, 0), (0, 0), (0, 1)), constant_values=0.5), axis=1), cmap="gray",
                vmin=0, vmax=1)
    axis.set_ylabel(name, rotation=0, ha="right", va="center")
    axis.set_xticks([], [])
    axis.set_yticks([], [])
    changes = np.linalg.norm(np.diff(decoded, axis=0), axis=(1, 2))
    print(f"{name}: the largest change of a step is {changes.max() / changes.min():.1f} times the smallest")
figure.suptitle("Decoded on the way from one digit to another")
plt.show()

# %% [markdown]
# ## A distance that does not depend on units
#
# Stretch the second code by ten. Encoder and decoder can undo that, so the stretched model makes the same images as
# before: it is as good, and might as well have come out of the training. A distance of images must not notice.

# %%
Decoders.units.assign([1.0, 10.0])
stretched = codes * np.array([1.0, 10.0], np.float32)
distances = {
    "geodesic": (found.lengths["rms"], solver.solve(stretched[first], stretched[second]).lengths["rms"]),
    "straight": tuple(np.linalg.norm(z[first] - z[second], axis=1) for z in (codes, stretched))}
different = labels[first] != labels[second]
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for axis, (name, (before, after)) in zip(axes, distances.items()):
    for pairs, label in [(different, "different digits"), (~different, "the same digit")]:
        axis.scatter(before[pairs], after[pairs], s=12, label=label)
    axis.set_title(f"{name} distance")
    axis.set_xlabel("as trained")
    axis.set_ylabel("second code times ten")
axes[0].legend()
plt.show()
for name, (before, after) in distances.items():
    print(f"{name}: rank correlation before and after {spearmanr(before, after)[0]:.3f}, AUROC before "
          f"{roc_auc_score(different, before):.3f}, after {roc_auc_score(different, after):.3f}")

# %% [markdown]
# The AUROC is the chance that a pair of different digits is farther apart than a pair of the same digit: 0.5 is
# guessing, 1 is perfect. Without any network there are two plain distances: that of the *pixels*, and *Isomap*'s, the
# shortest way from image to image by steps to one of the 30 nearest.

# %%
pixels = np.concatenate([test, train]).reshape(-1, 64)
steps = shortest_path(kneighbors_graph(pixels, 30, mode="distance"), directed=False, indices=first)
plain = {"pixels": np.linalg.norm(pixels[first] - pixels[second], axis=1),
         "Isomap": steps[np.arange(len(first)), second]}
for name, values in plain.items():
    print(f"{name}: AUROC {roc_auc_score(different, values):.3f}")

# %% [markdown]
# So the geodesic distance does not care about units, where the straight one falls apart. As trained, before the
# stretching, the straight distance was nearly as good: the prior of a variational autoencoder keeps its units sane. And
# for telling digits apart Isomap is far ahead of both: two numbers a code keep too little of an image, and the graph
# uses all pixels. Take geodesics when the *ways* matter, or means and distances in a latent space that you have anyway;
# a graph has no images on the way, and none for images that are not in it.
#
# ## On your own data
#
# ```python
# manifold = geometry.as_manifold(decoder)                  # a Keras decoder, a function, an ensemble, a model's own
# solver = geometry.Solver(manifold, geometry.Settings(energy="coupled"))
# found = solver.solve(codes_a, codes_b)                    # found.lengths["rms"], found.curves(t), found.converged
# ```
#
# More: [latent distances](../guides/latent_distances.md), with all pairs, means and limits; the model
# [ensemble_vae](../models/ensemble_vae.md); [distances that retrained models agree on](../notes/distances/README.md);
# geodesics around a hole in the short example [distances.py](../examples/distances.py) and in the preset `gp_circle`.
