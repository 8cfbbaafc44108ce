"""A model as a SavedModel: any TensorFlow answers it, without this package.

Prints:

signatures: decode encode ood_scores sample
the same seed, the same images: True
"""

import numpy as np
import tensorflow as tf

import pae_zoo
from pae_zoo import serving

x = pae_zoo.data.load("digits").train.x
encoder = pae_zoo.networks.build_encoder("mlp", (8, 8, 1), latent_dim=4, hidden_units=(32,))
decoder = pae_zoo.networks.build_decoder("mlp", (8, 8, 1), latent_dim=4, hidden_units=(32,))
model = pae_zoo.VAE(encoder, decoder)
model.compile("adam")
model.fit(x, epochs=1, batch_size=64, verbose=0)

chosen = ("encode", "decode", "sample", "ood_scores")  # without `only`, all that the model has
serving.export(model, "serving/vae", only=chosen)  # serving/vae/1, the next call writes .../2
served = tf.saved_model.load("serving/vae/1").signatures
print("signatures:", *sorted(served))
drawn = served["sample"](n=tf.constant(3), seed=tf.constant([1, 2]))["x"]
print("the same seed, the same images:", np.allclose(drawn, model.sample(3, seed=(1, 2)), atol=1e-5))
