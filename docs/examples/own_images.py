"""Images of your own, from a file to samples and back.

Prints:

train (458, 16, 16, 1) valid (42, 16, 16, 1) test (100, 16, 16, 1)
samples: (4, 16, 16, 1) loaded model agrees: True
"""

import keras
import numpy as np

import pae_zoo

# Discs of random size and place, as uint8; yours may come from anywhere.
rng = np.random.default_rng(0)
row, column = np.mgrid[:16, :16]
place, radius = rng.uniform(5, 11, size=(600, 2, 1, 1)), rng.uniform(2, 5, size=(600, 1, 1))
discs = (row - place[:, 0]) ** 2 + (column - place[:, 1]) ** 2 < radius**2
np.savez("discs.npz", x=(255 * discs[..., None]).astype(np.uint8))

data = pae_zoo.data.load("npz:discs.npz")  # splits by a fixed rule; folder:DIR reads pictures
print("train", data.train.x.shape, "valid", data.valid.x.shape, "test", data.test.x.shape)

encoder = pae_zoo.networks.build_encoder("conv", (16, 16, 1), latent_dim=3, num_filters=8)
decoder = pae_zoo.networks.build_decoder("conv", (16, 16, 1), latent_dim=3, num_filters=8)
model = pae_zoo.VAE(encoder, decoder, likelihood="bernoulli")
model.compile("adam")
model.fit(data.train.x, validation_data=(data.valid.x,), epochs=2, batch_size=64, verbose=0)

model.save("discs.keras")
again = keras.saving.load_model("discs.keras")
agrees = np.allclose(model.predict(data.test.x, verbose=0), again.predict(data.test.x, verbose=0))
print("samples:", model.sample(4, seed=(0, 1)).shape, "loaded model agrees:", agrees)
