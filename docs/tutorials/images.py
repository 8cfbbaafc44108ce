# %% [markdown]
# # Draw new images, and restore damaged ones
#
# An autoencoder squeezes an image into a few numbers, its *code*, and makes the image from the code again. If we also
# know which codes are likely, we have a model of images: draw a likely code, and decode it. That is all a
# *probabilistic autoencoder* (PAE) is: an autoencoder first, a density of its codes afterwards.
#
# With it we draw digits, fill in hidden halves and remove noise, and put plain methods beside each step.
# The 1,797 digits of scikit-learn are real scans of 8 x 8 pixels; the model comes trained with the package.

# %%
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

import pae_zoo
from pae_zoo import densities, inference
from pae_zoo.evaluation.features import extractor
from pae_zoo.evaluation.metrics import frechet

digits = pae_zoo.data.load("digits")
train, test = digits.train.x, digits.test.x  # (n, 8, 8, 1), pixels from 0 to 1
model = pae_zoo.from_preset("pae_digits_labels")  # 16 numbers a code
print("images to learn from:", len(train), "new ones:", len(test))


def show(rows, title):
    """A picture with a row of twelve images for each (name, images)."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(8, 0.7 * len(rows) + 0.4), layout="constrained")
    for axis, (name, images) in zip(axes, rows):
        apart = np.pad(np.array(images)[:12, :, :, 0], ((0, 0), (0, 0), (0, 1)), constant_values=0.5)
        axis.imshow(np.concatenate(apart, axis=1), cmap="gray", vmin=0, vmax=1)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set_xticks([], [])
        axis.set_yticks([], [])
    figure.suptitle(title)
    plt.show()


# %% [markdown]
# ## Is 16 numbers enough?
#
# First the autoencoder alone, on digits that it has not seen. The plain method is PCA, principal components, with as
# many numbers.

# %%
pca = PCA(16, random_state=0).fit(train.reshape(len(train), -1))
back = model.decode_mean(model.encode(test, seed=(0, 1)).mean()).numpy()
back_pca = pca.inverse_transform(pca.transform(test.reshape(len(test), -1))).reshape(test.shape)
show([("new", test), ("autoencoder", back), ("PCA", back_pca)], "Sixteen numbers, and back")
for name, images in [("autoencoder", back), ("PCA", back_pca)]:
    print(f"mean squared error of {name}: {np.mean((images - test) ** 2):.4f}")

# %% [markdown]
# The autoencoder loses half of what PCA loses.
#
# ## New images
#
# `model.sample` draws codes from the density that the preset learned, a normalizing flow, and decodes them. Beside it:
#
# - the same decoder on codes of simpler densities: one Gaussian, and a mixture of ten;
# - no network at all: a mixture of ten Gaussians on the principal components.

# %%
codes = model.encode(train, seed=(0, 1)).mean().numpy()
simple = {kind: densities.fit(codes, kind) for kind in ("gaussian", "gaussian_mixture")}
mixture = GaussianMixture(10, random_state=0).fit(pca.transform(train.reshape(len(train), -1)))
drawn = {
    "PAE, flow": model.sample(300, seed=(0, 2)).numpy(),
    "mixture": model.decode_mean(simple["gaussian_mixture"].sample(300, seed=(0, 2))).numpy(),
    "one Gaussian": model.decode_mean(simple["gaussian"].sample(300, seed=(0, 2))).numpy(),
    "PCA, mixture": pca.inverse_transform(mixture.sample(300)[0]).reshape(-1, 8, 8, 1),
}
order = np.random.default_rng(0).permutation(300)  # a mixture of scikit-learn draws one component after the other
show([("new", test), *((name, images[order]) for name, images in drawn.items())], "Drawn, not scanned")

# %% [markdown]
# How good are they? A small digit classifier that the package brings looks at all images, and the *Fréchet distance*
# tells how far what it sees in one set is from what it sees in another: less is better. Real images of the training
# set have a distance too, for 300 images are few.

# %%
judge, _ = extractor.load(extractor.__file__.replace("extractor.py", "extractors/digits.npz"))
moments = {name: frechet.moments(judge.features(np.clip(images, 0, 1).astype(np.float32)))
           for name, images in {"real": train[:300], **drawn, "test": test}.items()}
for name in ["real", *drawn]:
    print(f"Fréchet distance to the test images, {name}: {frechet.distance(moments[name], moments['test']):.0f}")

# %% [markdown]
# One Gaussian makes blots. Digits without a network are not bad, but smudged. Codes fall into clumps, which the flow
# and the mixture know; the flow comes as near to the test images as real images do, and the mixture, which is fitted
# in a second, about half as far again.
#
# As this preset learned a density for each label, it also draws on demand. Nearest neighbours read what came out.

# %%
asked = np.repeat([3, 8], 100)
on_demand = model.given(asked).sample(200, seed=(0, 6)).numpy()
reader = KNeighborsClassifier(5).fit(train.reshape(len(train), -1), digits.train.y)
for name, images, label in [("samples", on_demand, asked), ("test images", test, digits.test.y)]:
    right = np.mean(reader.predict(images.reshape(len(images), -1)) == label)
    print(f"{name} that are read as what they should be: {right:.2f}")
show([("3", on_demand[:12]), ("8", on_demand[100:])], "Threes and eights, on demand")

# %% [markdown]
# ## Fill in a hidden half
#
# Now the left half of each test image is hidden. Which codes are likely *and* decode to the right half that we see?
# `inference` climbs to the best of them from several starts, puts a Gaussian at each, and moves draws of these until
# they are draws of the posterior. Each draw, decoded, is a whole image that might have been. The density is the mixture
# of above, which is quick to differentiate.

# %%
density = simple["gaussian_mixture"]


@tf.function(autograph=False)
def restore(damaged, seen, noise):
    """Returns 100 codes for each damaged image (100, n, 16); `seen` is 1 where pixels are known."""
    observation = inference.Gaussian(model.likelihood.mean, model.likelihood.variance, noise)
    problem = inference.Problem(density.log_prob, model.decoder_outputs, observation, damaged, seen)
    starts = tf.repeat(density.sample(4, seed=(0, 3))[:, None], damaged.shape[0], axis=1)
    runs = inference.find_modes(problem, starts, inference.Schedule(steps=(60, 30), newton_steps=10))
    found = inference.mixture(inference.laplace(runs.u, runs.log_joint, problem.hessian(runs.u)))
    return inference.move(problem, found.sample(25, seed=(0, 4)), found, seed=(0, 5)).draws


def decoded(z):
    return model.decode_mean(tf.reshape(z, (-1, 16))).numpy().reshape(*z.shape[:2], 8, 8, 1)


some = test[:50]
seen = np.ones_like(some)
seen[:, :, :4] = 0
filled = decoded(restore(tf.constant(some), tf.constant(seen), tf.constant(0.0)))  # (100, 50, 8, 8, 1)

# %% [markdown]
# Two plain ways beside it. *Neighbours*: the 20 training images whose right halves are most alike; their left halves
# are guesses too. *Linear*: the regression of left halves on right halves.

# %%
right, left = train[:, :, 4:].reshape(len(train), -1), train[:, :, :4].reshape(len(train), -1)
given = some[:, :, 4:].reshape(len(some), -1)
near = np.moveaxis(train[NearestNeighbors(n_neighbors=20).fit(right).kneighbors(given)[1]], 1, 0)
linear = some.copy()
linear[:, :, :4] = Ridge(alpha=1.0).fit(right, left).predict(given).reshape(-1, 8, 4, 1)
guesses = {"PAE, mean": filled.mean(axis=0), "neighbours, mean": near.mean(axis=0), "linear": linear}
show([("truth", some), ("given", np.where(seen, some, 0.5)),
      *((name, np.where(seen, some, images)) for name, images in guesses.items()),
      *((f"PAE, draw {i + 1}", np.where(seen, some, filled[i])) for i in range(3))],
     "Left halves, guessed from right halves")
for name, images in guesses.items():
    print(f"mean squared error of hidden pixels, {name}: {np.mean((images - some)[:, :, :4] ** 2):.4f}")

outputs = model.decoder_outputs(tf.constant(codes[:1]))
sigma = np.sqrt(model.likelihood.variance(outputs).numpy().mean())  # what the decoder misses of a pixel
spread = filled + sigma * np.random.default_rng(1).normal(size=filled.shape)
for name, images in [("PAE", spread), ("neighbours", near)]:
    low, high = np.quantile(images, [0.05, 0.95], axis=0)
    inside = (low <= some) & (some <= high)
    print(f"hidden pixels inside the middle 90 % of {name}: {inside[:, :, :4].mean():.2f}")

# %% [markdown]
# In so small and well filled a set as these digits the twenty neighbours are a strong rival, hardly behind: try them
# before you take a network. What the posterior adds are *sharp* alternatives, one explanation a draw, where every mean
# is a blur, and a width that is about as wide as it says, where the neighbours' is too wide.
#
# ## Remove noise
#
# The same function with everything seen and noise of known strength. Beside it: projection on the principal
# components, and a linear regression of clean training images on noisy ones, which is the best linear filter.

# %%
generator = np.random.default_rng(2)
strength = 0.3
noisy = some + strength * generator.normal(size=some.shape).astype(np.float32)
cleaned = decoded(restore(tf.constant(noisy), tf.ones_like(noisy), tf.constant(strength)))
noisy_train = train + strength * generator.normal(size=train.shape)
rows = noisy.reshape(len(noisy), -1)
linear = Ridge(alpha=1.0).fit(noisy_train.reshape(len(train), -1), train.reshape(len(train), -1)).predict(rows)
guesses = {"PAE, mean": cleaned.mean(axis=0), "linear filter": linear.reshape(some.shape),
           "PCA": pca.inverse_transform(pca.transform(rows)).reshape(some.shape)}
show([("truth", some), ("noisy", noisy), *guesses.items()],
     f"Noise of standard deviation {strength} removed")
for name, images in {"nothing done": noisy, **guesses}.items():
    print(f"mean squared error, {name}: {np.mean((images - some) ** 2):.4f}")

# %% [markdown]
# ## On your own data
#
# ```python
# model = pae_zoo.PAE(encoder, decoder)           # from pae_zoo.networks.build_encoder and build_decoder, or Keras
# model.compile("adam"); model.fit(images, epochs=60, batch_size=64)   # (n, height, width, channels), from 0 to 1
# pictures = model.sample(16, seed=(0, 1))
# ```
#
# or, without Python, `python -m pae_zoo.main --model=pae --dataset=folder:photos --workdir=runs/photos`; the task
# `restoration` and `pae_zoo.apply` do the searches above with more care.
#
# More: [inpainting and denoising](../guides/restoration.md), [the model](../models/pae.md),
# [labels](../guides/labels.md), [presets](../guides/presets.md), [your own data](../guides/data.md), and the short
# example [fill_in.py](../examples/fill_in.py).
