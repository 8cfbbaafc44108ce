"""Data sets by name, preprocessing and augmentation."""

from pae_zoo.data.dataset import Dataset, Info, Split, slug
from pae_zoo.data.loading import load
from pae_zoo.data.preprocessing import bits_per_dim, build_chain
from pae_zoo.data.sources import check_name, describe

__all__ = ["Dataset", "Info", "Split", "bits_per_dim", "build_chain", "check_name", "describe", "load", "slug"]
