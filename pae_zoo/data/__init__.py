"""Data sets by name, preprocessing and augmentation."""

from pae_zoo.data.dataset import Dataset, Info, Split, slug
from pae_zoo.data.loading import load
from pae_zoo.data.sources import check_name, describe
