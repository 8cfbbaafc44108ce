"""Latent spaces as Riemannian manifolds: metrics of decoders, curves, energies, geodesics. Knows no model."""
