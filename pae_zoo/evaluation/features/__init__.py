"""Extractors of features, for Frechet distances."""

from pae_zoo.evaluation.features.extractor import Extractor, check_file, load

__all__ = ["Extractor", "check_file", "load"]
