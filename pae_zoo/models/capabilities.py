"""What models can do, each thing with its methods and the words for a model that cannot."""

from typing import Any, NamedTuple


class Capability(NamedTuple):
    """One thing that a model may offer.

    methods: the methods of `Autoencoder` that it stands for. means: what it is, for help texts. lacking: what a model
    without it has not, after "has".
    """

    methods: tuple[str, ...]
    means: str
    lacking: str


CAPABILITIES: dict[str, Capability] = {
    "moments": Capability((), "moments of codes in closed form (the mean alone where codes are certain)",
                          "no closed form of its codes' moments"),
    "elbo": Capability(("elbo",), "a lower bound of log p(x)", "no evidence lower bound"),
    "likelihood": Capability(("importance_estimate", "log_likelihood"), "importance-sampled log p(x)",
                             "no likelihood to estimate"),
    "prior": Capability(("prior", "log_prob_latent"), "a density over latents", "no density over its latent space"),
    "sample": Capability(("sample",), "new data", "no density over its latent space"),
    "surface": Capability(("log_density_manifold",), "densities on the surface of reconstructions",
                          "no density on the surface of its reconstructions"),
    "predictive": Capability(("predictive",), "moments of what is drawn for a datum",
                             "no posterior predictive distribution"),
    "draws": Capability(("draw_reconstructions", "draw_codes", "predictive_log_prob"),
                        "drawn codes and reconstructions", "one code and one reconstruction of a datum and draws none"),
    "grid": Capability(("decode_grid",), "drawn decoders", "one decoder and draws none"),
    "scores": Capability(("ood_scores",), "scores of unusual data", "no out-of-distribution score"),
    "refine": Capability(("refined",), "codes refined at test by Newton steps",
                         "no decoder with a posterior of its latents, which is what a refinement moves"),
    "impute": Capability(("impute", "impute_mean"), "missing values given those that were seen",
                         "no posterior given the values that were seen"),
    "path": Capability(("latent_path",), "the latents that an encoding goes through", "no posterior that is updated"),
}  # fmt: skip


def lacking(model: Any, name: str) -> NotImplementedError:
    """Returns the error of a model, or of a class, that does not offer the capability `name`."""
    cls = model if isinstance(model, type) else type(model)
    return NotImplementedError(f"{cls.__name__} has {CAPABILITIES[name].lacking}.")


def describe(cls: type) -> str:
    """Returns what a class of models offers, in one line."""
    return "; ".join(f"{name}: {one.means}" for name, one in CAPABILITIES.items() if name in cls.offers)
