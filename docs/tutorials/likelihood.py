# %% [markdown]
# # How probable is this datum?
#
# A variational autoencoder (VAE) is a density: it says how probable an image or a series is, in nats, the natural
# logarithm of its density. With that one compares models, finds odd data and weighs explanations. But the density is an
# integral over all codes that may have made the datum, and cannot be computed exactly. This tutorial shows what is done
# in its place, how wrong that can be, and how two steps at test make it better, without training anything.
#
# Two trained models of the package serve: a VAE of waves, a series whose true density is *known*, so that every answer
# can be checked, and a VAE of scikit-learn's handwritten digits with two numbers a code, so that it can be drawn.

# %%
import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from sklearn.mixture import GaussianMixture

import pae_zoo

waves = pae_zoo.data.load("waves")  # sine waves of any phase and frequency, 32 steps, with noise
model = pae_zoo.from_preset("vae_waves")
x = waves.test.x[:300]
truth = waves.log_prob(x)  # nats, (300,)

figure, axis = plt.subplots(figsize=(8, 2.5), layout="constrained")
for wave in x[:4]:
    axis.plot(wave[:, 0], marker=".")
axis.set_xlabel("step")
axis.set_ylabel("value")
axis.set_title("Four waves, as they are measured")
plt.show()

# %% [markdown]
# ## A bound, an estimate, and the truth
#
# The encoder guesses which codes may have made a datum: a Gaussian q(z|x). From it come two numbers. The *bound* (ELBO)
# lies below log p(x) by as much as q misses the true posterior of the codes. The *estimate* draws codes from q and
# weighs them by how well they explain the datum; it is nearer, if enough of the draws count, which the *effective
# sample size* tells.


# %%
def estimate(model, x):
    """Bound, estimate and effective sample size of each datum, by 100 draws."""
    found = model.importance_estimate(x, num_samples=100, seed=(0, 1))
    return {"bound": found.elbo.numpy(), "estimate": found.log_likelihood.numpy(),
            "effective": found.effective_sample_size.numpy()}


own = estimate(model, x)
print(f"true log p(x): {truth.mean():.1f}   bound: {own['bound'].mean():.1f}   estimate: "
      f"{own['estimate'].mean():.1f}   of 100 draws count: {np.median(own['effective']):.0f}")

# %% [markdown]
# What is missing to the truth has two reasons: the model has not learned the waves perfectly, and q hides some of what
# it has learned. The second can be repaired now.
#
# ## A better posterior, at test
#
# The encoder looks at a datum once, and guesses. But the decoder can be asked: where do the codes explain this datum
# best, and how quickly does the explanation get worse around there? Linearise the decoder at the guess, solve for the
# best code, repeat, and take the Gaussian of the curvature. This is the update of the variational Laplace autoencoder
# (VLAE), and `model.refined()` does it for any trained VAE.

# %%
refined = model.refined("line_search", num_updates=2)  # the same weights
better = estimate(refined, x)
print(f"refined: bound {better['bound'].mean():.1f}   estimate {better['estimate'].mean():.1f}"
      f"   of 100 draws count: {np.median(better['effective']):.0f}")
for name, found in [("encoder", own), ("refined", better)]:
    far = np.mean(found["estimate"] < truth - 3)
    print(f"{name}: estimates more than 3 nats below the truth: {far:.2f} of the waves")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained", sharex=True, sharey=True)
low = truth.min() - 15
for axis, name, found in [(axes[0], "encoder", own), (axes[1], "refined", better)]:
    axis.scatter(truth, np.maximum(found["bound"], low), s=8, color="C1", label="bound")
    axis.scatter(truth, np.maximum(found["estimate"], low), s=8, color="C0", label="estimate")
    axis.axline((truth.mean(), truth.mean()), slope=1, color="black", linewidth=0.8)
    axis.set_title(f"q of the {name}" if name == "encoder" else "q refined at test")
    axis.set_xlabel("true log p(x), nats")
axes[0].set_ylabel("by the model, nats")
axes[0].legend()
figure.suptitle("Each dot is a wave; on the line is right, values far below are drawn at the edge")
plt.show()

# %% [markdown]
# The estimate rises towards the truth, and more draws count. The *bound* falls for some waves: where the decoder bends,
# the Gaussian of its linearisation reaches codes that explain the wave badly, and the bound, a mean over all draws,
# minds each of them, while the weights of the estimate leave them out. So look at an estimate and its effective sample
# size, not at a bound alone.
#
# ## What it does, in a picture
#
# A code of two numbers can be drawn. For a handwritten digit we compute the true posterior on a fine grid, and draw
# both Gaussians over it: an ellipse of two standard deviations.

# %%
digits = pae_zoo.data.load("digits")
digit_model = pae_zoo.from_preset("vae_digits")
two = {"encoder": digit_model, "refined": digit_model.refined("line_search", num_updates=4)}
images = digits.test.x[:100]
found = {name: estimate(one, images) for name, one in two.items()}
for name, one in found.items():
    print(f"digits, {name}: bound {one['bound'].mean():.1f}, estimate {one['estimate'].mean():.1f}")
chosen = np.argsort(found["encoder"]["bound"] - found["refined"]["bound"])[[5, 15, 25]]

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
turn = np.linspace(0, 2 * np.pi, 100)
circle = np.stack([np.cos(turn), np.sin(turn)])
for axis, k in zip(axes, chosen):
    ellipses = {}
    for name, one in two.items():
        draws = one.encode(images[k : k + 1], seed=(0, 1)).sample(2000, seed=(0, 2)).numpy()[:, 0]
        ellipses[name] = draws.mean(axis=0)[:, None] + 2 * np.linalg.cholesky(np.cov(draws.T)) @ circle
    points = np.concatenate(list(ellipses.values()), axis=1)
    middle, reach = (points.max(1) + points.min(1)) / 2, (points.max(1) - points.min(1)).max()
    sides = [np.linspace(m - reach, m + reach, 80, dtype=np.float32) for m in middle]
    z = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
    log_joint = digit_model.prior().log_prob(z) + digit_model.decode(tf.constant(z)).log_prob(images[k])
    joint = np.exp(log_joint - np.max(log_joint)).reshape(80, 80)
    axis.pcolormesh(*sides, joint, cmap="Greys", shading="nearest")
    for name, (first, second) in ellipses.items():
        axis.plot(first, second, label=name)
    axis.set_title(f"a {digits.test.y[k]}")
    axis.set_xlabel("code 1")
axes[0].set_ylabel("code 2")
axes[0].legend()
figure.suptitle("Gray: which codes may have made the digit. Ellipses: what q says")
plt.show()

# %% [markdown]
# The encoder's ellipses have upright axes, and miss. The refined ones move to where the gray is and take its shape; in
# the middle the way is bent, and four steps do not lead all the way. On these digits bound and estimate both rise.
#
# ## And without a network?
#
# A mixture of ten Gaussians is a density of waves too, fitted in seconds. (Of the digits it is no fair rival: many
# pixels are always 0, where a density can be as high as one likes.)

# %%
flat = waves.train.x.reshape(len(waves.train.x), -1)
mixture = GaussianMixture(10, reg_covar=1e-4, random_state=0).fit(flat)
by_mixture = mixture.score_samples(x.reshape(len(x), -1))
for name, values in [("truth", truth), ("mixture", by_mixture), ("VAE, encoder", own["estimate"]),
                     ("VAE, refined", better["estimate"])]:
    rank = np.corrcoef(truth.argsort().argsort(), values.argsort().argsort())[0, 1]
    print(f"{name:13} mean log p: {values.mean():5.1f}   rank correlation with the truth: {rank:.2f}")

# %% [markdown]
# The mixture is nearly as good as a VAE that was trained for minutes: on 32 numbers of a smooth series, with thousands
# of examples, it is the thing to try first. Where it stops are images and long series, whose covariances it can no
# longer hold, and codes: it has none.
#
# ## On your own data
#
# ```python
# model = pae_zoo.VLAE(encoder, decoder)                  # refines while it trains, too; or any trained VAE
# model.compile("adam"); model.fit(x, epochs=60, batch_size=64)
# found = model.refined("line_search").importance_estimate(new, num_samples=100, seed=(0, 1))
# ```
#
# More: [how likely are the data](../guides/likelihood.md), with what to read with care; [vlae](../models/vlae.md);
# [what better posteriors bring](../notes/amortisation.md) and [refined codes](../notes/refinement.md), measured;
# [densities of any array](../guides/densities.md).
