"""The first result: a fresh process imports the package, builds a model as its page does and fits it."""

import json
import resource
import time

# What is fitted: a flow over so many dimensions to so many rows of noise, or a model to the digits for so many epochs.
FLOWS = {"Flow(9), 100 rows": (9, 100), "Flow(64), 1,000 rows": (64, 1000), "Flow(166), 1,480 rows": (166, 1480)}
MODELS = {"vae, digits, 20 epochs": ("VAE", 20), "pae, digits, 30 epochs": ("PAE", 30)}


def first_result(name: str) -> None:
    """Prints, as JSON, processor seconds of the imports of TensorFlow and of the package, of the rest, and MiB."""
    clocks = [time.process_time()]
    import tensorflow  # noqa: F401

    clocks.append(time.process_time())
    import pae_zoo  # noqa: F401

    clocks.append(time.process_time())
    if name in FLOWS:
        _flow(*FLOWS[name])
    else:
        _model(*MODELS[name])
    clocks.append(time.process_time())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tensorflow_s, package_s, fit_s = (after - before for before, after in zip(clocks, clocks[1:]))
    print(json.dumps({"tensorflow_cpu_s": tensorflow_s, "package_cpu_s": package_s, "fit_cpu_s": fit_s,
                      "fitted_cpu_s": package_s + fit_s, "peak_mib": peak}))  # fmt: skip


def _flow(num_dims: int, rows: int) -> None:
    import numpy as np

    import pae_zoo

    flow = pae_zoo.Flow(num_dims)
    flow.compile("adam")
    flow.fit(np.random.default_rng(0).normal(size=(rows, num_dims)), verbose=0)


def _model(name: str, epochs: int) -> None:
    import pae_zoo

    digits = pae_zoo.data.load("digits")
    encoder = pae_zoo.networks.build_encoder("mlp", (8, 8, 1), latent_dim=8)
    decoder = pae_zoo.networks.build_decoder("mlp", (8, 8, 1), latent_dim=8)
    model = getattr(pae_zoo, name)(encoder, decoder)
    model.compile("adam")
    model.fit(digits.train.x, epochs=epochs, batch_size=64, verbose=0)
