"""Trains small models for ten steps on one device and on replicas, and prints how they compare.

    python tests/core/replica_runs.py vae,flow 2       logical devices of this process
    python tests/core/replica_runs.py vae workers      the processes of TF_CONFIG

Prints a line of JSON for each model: the largest relative difference of any loss or metric, and of a weight.
"""

import contextlib
import json
import sys

import numpy as np
import tensorflow as tf

WORKERS = "workers"
DEVICES = 4
if sys.argv[2] != WORKERS:  # before TensorFlow looks at the devices
    tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0],
                                               [tf.config.LogicalDeviceConfiguration()] * DEVICES)
    strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(int(sys.argv[2]))],
                                              tf.distribute.ReductionToOneDevice())
else:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

import keras  # noqa: E402

import pae_zoo  # noqa: E402
from pae_zoo import networks  # noqa: E402

# Optimising these graphs takes longer than running them.
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
X = np.random.default_rng(0).random((16, 8)).astype("float32")
# A part of a batch at the end of an epoch: replicas do not divide its 5 rows.
ROWS = {"vae": 13}


def decoder(seed=0):
    return networks.build_decoder("mlp", (8,), latent_dim=2, hidden_units=(8,), seed=seed)


def make(name):
    if name == "flow":
        return pae_zoo.Flow(8, seed=1, depth=2, hidden_units=(8,), bins=4, noise=0.1, dropout=0.1)
    encoder = networks.build_encoder("mlp", (8,), latent_dim=2, hidden_units=(8,), dropout_rate=0.1)
    if name == "ensemble_vae":
        return pae_zoo.EnsembleVAE(encoder, networks.StackedDecoder.stack([decoder(s) for s in range(3)]), seed=3)
    if name == "vlae":
        return pae_zoo.VLAE(encoder, decoder(), seed=3, warmup_steps=4)
    if name == "lae":
        encoder = networks.build_encoder("mlp", (8,), latent_dim=2, hidden_units=(8,))
        return pae_zoo.LAE(encoder, decoder(), seed=3, hessian_every=2)
    if name == "pae":
        return pae_zoo.PAE(encoder, decoder(), seed=3, code_noise=0.1, flow_settings={"epochs": 2, "batch_size": 8},
                           flow=pae_zoo.densities.make("flow", 2, depth=1, hidden_units=(8,), bins=4))
    if name == "flow_vae":
        flow = pae_zoo.densities.make("flow", 2, depth=1, hidden_units=(8,), bins=4, whiten=False)
        return pae_zoo.FlowVAE(encoder, decoder(), seed=3, flow=flow)
    return {"vae": pae_zoo.VAE, "ae": pae_zoo.AE}[name](encoder, decoder(), seed=3)


def trained(name, strategy):
    with contextlib.nullcontext() if strategy is None else strategy.scope():
        model = make(name)
        model.compile(keras.optimizers.Adam(0.01, global_clipnorm=1.0), ema=0.5, norms=True)
    history = model.fit(X[: ROWS.get(name, 16)], batch_size=8, epochs=5, verbose=0, shuffle=False, validation_data=X)
    return history.history, [keras.ops.convert_to_numpy(v) for v in model.trainable_variables]


def apart(one, two):
    """Returns the largest difference of two arrays, in units of the largest value."""
    return float(np.abs(np.subtract(one, two)).max() / max(np.abs(one).max(), 1e-9))


def main():
    for name in sys.argv[1].split(","):
        (history, weights), (shared, moved) = trained(name, None), trained(name, strategy)
        assert set(history) == set(shared), set(history) ^ set(shared)
        values = {key: apart(history[key], shared[key]) for key in history}
        print(json.dumps({"model": name, "metrics": max(values.values()), "worst": max(values, key=values.get),
                          "weights": max(map(apart, weights, moved)), "loss": history["loss"][-1]}), flush=True)


if __name__ == "__main__":
    main()
