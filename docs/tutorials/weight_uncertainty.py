# %% [markdown]
# # How sure is my Keras network?
#
# A classifier gives probabilities for whatever it is shown, also for things it has never seen, and it is often far too
# sure of them. Part of the reason is that one set of weights was chosen where many would have fitted the data as well.
# The *Laplace approximation* asks how far each weight could move before the training data are fitted worse: the
# curvature of the loss. Weights that may move much make predictions uncertain.
#
# `pae_zoo.curvature` does this for a Keras network of your own, by a callback in its own `fit`: nothing of the network
# or its training changes. Here a small one learns eight of the ten digits of scikit-learn, and is then shown all ten.

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors

from pae_zoo import curvature

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32")  # (1797, 64), pixels from 0 to 1
known = labels < 8
rest_x, test_x, rest_y, test_y = train_test_split(images[known], labels[known], train_size=300, random_state=1)
train_x, valid_x, train_y, valid_y = train_test_split(rest_x, rest_y, train_size=150, random_state=1)
strange_x = images[~known]
print("to learn from:", len(train_x), "to choose by:", len(valid_x), "new, 0 to 7:", len(test_x),
      "new, 8 and 9:", len(strange_x))

# %% [markdown]
# ## One more line in `fit`

# %%
keras.utils.set_random_seed(0)


def network():
    """A small classifier; yours may be convolutional, with branches, batch normalisation, dropout."""
    found = keras.Sequential([
        keras.Input((64,)), keras.layers.Dense(100, activation="relu"), keras.layers.Dense(100, activation="relu"),
        keras.layers.Dense(8, activation="softmax")])
    found.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    return found


model = network()
laplace = curvature.LaplaceCallback(train_x, train_y, structure="kron", method="exact", every=1000, final=True)
model.fit(train_x, train_y, epochs=40, batch_size=50, callbacks=[laplace], verbose=0)
posterior = laplace.posterior()  # a Gaussian over all weights
predictive = curvature.Predictive(posterior, model, link="probit")
print("weights:", model.count_params(), "images:", len(train_x))

# %% [markdown]
# `final=True` takes the curvature once, over all data, at the trained weights; `structure="kron"` keeps two matrices
# for each layer. `Predictive` gives the same kind of probabilities as the network, with the uncertainty of the weights
# in them. Rivals:
#
# - *softmax*: the network's own probabilities;
# - *ensemble*: those of three such networks from other starts, averaged, for three times the training;
# - *distance*: to the fifth nearest training image. No network at all, and no probabilities.

# %%
members = [model, *(network() for _ in range(2))]
for member in members[1:]:
    member.fit(train_x, train_y, epochs=40, batch_size=50, verbose=0)


everything = np.r_[valid_x, test_x, strange_x]
parts = np.cumsum([len(valid_x), len(test_x)])
answers = {"softmax": model(everything).numpy(), "Laplace": predictive(everything)["probabilities"].numpy(),
           "ensemble": np.mean([member(everything) for member in members], axis=0)}  # (n, 8) each


def loss(p, y):
    """Mean of -log p of the true labels, nats."""
    return -np.log(p[np.arange(len(p)), y]).mean()


def auroc(score):
    """How well a score of all images tells the strange ones, where it is high, from the new ones."""
    is_strange = np.r_[np.zeros(len(test_x)), np.ones(len(strange_x))]
    return roc_auc_score(is_strange, score[len(valid_x):])


def table():
    """Prints how good the answers are."""
    print(f"{'':10}accuracy  -log p  confidence - accuracy  8s and 9s: above 0.9  AUROC")
    for name, p in answers.items():
        _, usual, strange = np.split(p, parts)
        accuracy, sure = np.mean(usual.argmax(axis=1) == test_y), usual.max(axis=1)
        print(f"{name:10}{accuracy:.3f}     {loss(usual, test_y):.3f}   {sure.mean() - accuracy:+.3f}"
              f"                 {np.mean(strange.max(axis=1) > 0.9):.2f}                  {auroc(-p.max(axis=1)):.3f}")


# %% [markdown]
# ## Are the probabilities right?
#
# A digit that is called a 3 with 0.7 should be a 3 in seven of ten cases. For new digits of the known labels the table
# has the mean of -log p of the true label, less is better, and mean confidence less accuracy, zero is right. Of an 8 or
# a 9 every answer is wrong, so none should be sure: the share of them that get more than 0.9, and the AUROC, the chance
# that an 8 or a 9 is less certain than a digit of the known labels: 0.5 is guessing, 1 is perfect.

# %%
table()
near = NearestNeighbors(n_neighbors=5).fit(train_x).kneighbors(everything)[0][:, -1]
print(f"AUROC of the distance: {auroc(near):.3f}")

# %% [markdown]
# Network and ensemble are too sure: by five points on digits of the known labels, and of many strange ones. The Laplace
# approximation is best at telling strange digits, and never sure of one. But now it is far *less* sure than it
# should be. The evidence, which set the prior precision of the weights, made their Gaussian too wide for this network;
# with many more weights than images that is common.
#
# ## Choose the width on held-out images
#
# The remedy is one number. Multiply the prior precision, and look at the images that nothing was fitted to.

# %%
chosen = posterior.prior_precision.numpy()
factors = 10.0 ** np.arange(0, 3.6, 0.5)
tried = []
for factor in factors:
    posterior.assign_scales(prior_precision=chosen * factor)
    tried.append(predictive(everything)["probabilities"].numpy())
losses = [loss(p[: len(valid_x)], valid_y) for p in tried]
best = np.argmin(losses)
answers["Laplace"] = tried[best]
print(f"prior precision times {factors[best]:.0f}")
table()

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
plain = answers["softmax"]
for axis, values, constant, name in [
        (axes[0], losses, loss(plain[: len(valid_x)], valid_y), "-log p of held-out labels, nats"),
        (axes[1], [auroc(-p.max(axis=1)) for p in tried], auroc(-plain.max(axis=1)), "AUROC of 8s and 9s")]:
    axis.semilogx(factors, values, "o-", label="Laplace")
    axis.axhline(constant, color="gray", linestyle=":", label="softmax")
    axis.axvline(factors[best], color="C1", linewidth=1, label="chosen")
    axis.set_xlabel("prior precision, times that of the evidence")
    axis.set_ylabel(name)
axes[0].legend()
figure.suptitle("Weights uncertain on the left, almost fixed on the right")
plt.show()

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 2.8), layout="constrained", sharey=True)
for axis, (name, p) in zip(axes, answers.items()):
    for part, label in zip(np.split(p, parts)[1:], ["0 to 7, as trained", "8 and 9, never seen"]):
        axis.hist(part.max(axis=1), bins=np.linspace(0, 1, 21), density=True, alpha=0.6, label=label)
    axis.set_title(name)
    axis.set_xlabel("probability of the chosen label")
axes[0].set_ylabel("density of images")
axes[0].legend(loc="upper left")
plt.show()

# %% [markdown]
# Now the probabilities are the best of the three, from one network, and few strange digits get a confident label. What
# it cost are held-out labels, with which one could also have trained. And it is no wonder cure: the more images there
# are, the less uncertain the weights, and the less a plain softmax or the distance to the training images is behind.
# Print such a table for yours, with `train_size` as large as your data.
#
# ## On your own data
#
# ```python
# laplace = curvature.LaplaceCallback(x, y, structure="kron", final=True)
# model.fit(x, y, epochs=20, callbacks=[laplace])                     # your compiled Keras model
# found = curvature.Predictive(laplace.posterior(), model)(new)       # probabilities; of a regressor mean and stds
# ```
#
# More: [curvature of any network](../guides/curvature.md), [how sure a network is](../guides/predictive.md);
# autoencoders with such weights, [lae_posthoc](../models/lae_posthoc.md) (the preset `lae_posthoc_digits`) and
# [lae](../models/lae.md); [uncertain weights](../guides/uncertainty.md); a regressor in the short example
# [error_bars.py](../examples/error_bars.py).
