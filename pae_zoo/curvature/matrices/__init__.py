"""Generalised Gauss-Newton matrices of every structure."""
