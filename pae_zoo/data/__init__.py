"""Data sets by name, one's own arrays and tables, preprocessing and augmentation."""

from pae_zoo.data.augmentation import build_augmentation
from pae_zoo.data.corruptions import CORRUPTIONS, corrupted
from pae_zoo.data.dataset import Dataset, Info, Split, slug
from pae_zoo.data.in_memory import from_arrays
from pae_zoo.data.loading import check_steps, load, of_hparams
from pae_zoo.data.preprocessing import Chain, bits_per_dim, build_chain, takes_reals
from pae_zoo.data.sources import check_name, describe, full_name, is_standardised, locate

__all__ = [
    "CORRUPTIONS", "Chain", "Dataset", "Info", "Split", "bits_per_dim", "build_augmentation", "build_chain",
    "check_name", "check_steps", "corrupted", "describe", "from_arrays", "full_name", "is_standardised",
    "load", "locate", "of_hparams", "slug", "takes_reals",
]  # fmt: skip
