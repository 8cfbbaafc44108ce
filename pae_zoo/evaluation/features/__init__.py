"""Extractors of features, for Frechet distances."""
