"""pae_zoo: autoencoders that know what they do not know, as Keras 3 models on shared parts.

Importing the package registers every model with Keras, so that `keras.saving.load_model` finds them.
"""

import os
import sys

from pae_zoo import moved

__version__ = "0.1.0"


def _import_tensorflow() -> None:
    """Imports TensorFlow; under `python -m pae_zoo.X` and `pae-zoo` without its chatter, unless --verbosity=1 or 2."""
    launcher = sys.argv[:1] == ["-m"] or os.path.basename("".join(sys.argv[:1])) == "pae-zoo"
    loud = any(word in ("--verbosity=1", "--verbosity=2") for word in sys.argv)
    if not launcher or loud or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        import tensorflow  # noqa: F401

        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    # Some lines are written to the file descriptor before any log level is read.
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        import tensorflow  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


_import_tensorflow()
moved.install()

from pae_zoo import curvature, data, densities, flows, likelihoods, models, networks  # noqa: E402
from pae_zoo.core import seeds  # noqa: E402
from pae_zoo.core.errors import UserError  # noqa: E402
from pae_zoo.experiment.presets import from_preset, presets, save_to_preset  # noqa: E402
from pae_zoo.flows import Flow  # noqa: E402
from pae_zoo.models.ae import AE  # noqa: E402
from pae_zoo.models.bbb_ae import BBBAE  # noqa: E402
from pae_zoo.models.deep_ensemble_ae import DeepEnsembleAE  # noqa: E402
from pae_zoo.models.ensemble_vae import EnsembleVAE  # noqa: E402
from pae_zoo.models.flow_vae import FlowVAE  # noqa: E402
from pae_zoo.models.gp_circle import GPCircle  # noqa: E402
from pae_zoo.models.hf import HF  # noqa: E402
from pae_zoo.models.iaf import IAF  # noqa: E402
from pae_zoo.models.lae import LAE  # noqa: E402
from pae_zoo.models.lae_posthoc import LAEPosthoc  # noqa: E402
from pae_zoo.models.mcdropout_ae import MCDropoutAE  # noqa: E402
from pae_zoo.models.mmd_vae import MMDVAE  # noqa: E402
from pae_zoo.models.pae import PAE  # noqa: E402
from pae_zoo.models.rae import RAE  # noqa: E402
from pae_zoo.models.rbf_vae import RBFVAE  # noqa: E402
from pae_zoo.models.savae import SAVAE  # noqa: E402
from pae_zoo.models.vae import VAE  # noqa: E402
from pae_zoo.models.vlae import VLAE  # noqa: E402
from pae_zoo.models.wae import WAE  # noqa: E402
from pae_zoo.registry import register  # noqa: E402

__all__ = [
    "AE", "BBBAE", "DeepEnsembleAE", "EnsembleVAE", "Flow", "FlowVAE", "GPCircle", "HF", "IAF", "LAE", "LAEPosthoc",
    "MCDropoutAE", "MMDVAE", "PAE", "RAE", "RBFVAE", "SAVAE", "UserError", "VAE", "VLAE", "WAE", "curvature", "data",
    "densities", "flows", "from_preset", "likelihoods", "models", "networks", "presets", "register", "save_to_preset",
    "seeds",
]  # fmt: skip
