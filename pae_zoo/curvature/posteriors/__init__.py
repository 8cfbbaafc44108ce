"""Gaussians over weights."""
