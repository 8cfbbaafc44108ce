"""Distributions of outputs under a Gaussian over weights."""
