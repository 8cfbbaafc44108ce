"""Error bars for a Keras network of your own, by a callback in its own fit.

Prints:

std of f(x) where there are data: 0.03
std of f(x) far from them: 0.18
"""

import keras
import matplotlib.pyplot as plt
import numpy as np

from pae_zoo import curvature

x = np.random.default_rng(0).uniform(-1, 1, size=(500, 1)).astype("float32")
y = np.sin(3 * x) + 0.1 * np.random.default_rng(1).normal(size=x.shape).astype("float32")
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(30, activation="tanh"), keras.layers.Dense(1)])
model.compile(keras.optimizers.Adam(1e-2), "mse")
laplace = curvature.LaplaceCallback(x, y, final=True)
model.fit(x, y, epochs=60, batch_size=50, callbacks=[laplace], verbose=0)

posterior = laplace.posterior()  # prior precision and noise by the evidence
for place, name in [(0.0, "where there are data"), (4.0, "far from them")]:
    found = curvature.predict(posterior, model, np.full((1, 1), place, np.float32))
    print(f"std of f(x) {name}: {np.sqrt(found['variance'][0, 0]):.2f}")

line = np.linspace(-4, 4, 200, dtype=np.float32)[:, None]
found = curvature.predict(posterior, model, line)
mean, std = np.ravel(found["mean"]), np.sqrt(np.ravel(found["variance"]))
plt.figure(figsize=(7, 3))
plt.fill_between(line[:, 0], mean - 2 * std, mean + 2 * std, alpha=0.3, label="two std of f(x)")
plt.plot(line, mean, label="f(x)")
plt.plot(x, y, ".", markersize=2, label="data")
plt.legend()
plt.savefig("error_bars.png")
