"""Flow layers by name, presets, and the making of a chain of layers from a list of names."""

from typing import Any, Sequence, Union

from pae_zoo.core.errors import UserError, suggestion
from pae_zoo.flows import autoregressive, coupling, linear
from pae_zoo.flows.base import FlowLayer

LAYERS: dict[str, type[FlowLayer]] = {
    layer.kind: layer for module in (coupling, autoregressive, linear) for layer in module.LAYERS
}
# One block each, from the base to the data; `depth` says how often.
PRESETS: dict[str, tuple[str, ...]] = {
    "nice": ("lu", "additive"),
    "realnvp": ("lu", "affine"),
    "nsf": ("lu", "spline"),
    "maf": ("reverse", "maf"),
    "nsf_ar": ("reverse", "maf_spline"),
}
# Arguments of `Flow` that are those other packages' neural spline flows have.
SETTINGS: dict[str, dict[str, Any]] = {
    "zuko": dict(layers="nsf_ar", depth=3, hidden_units=(64, 64), bins=8, bound=5.0, activation="relu"),
    "nflows": dict(layers="nsf", depth=10, hidden_units=(256, 256), bins=8, bound=3.0, activation="relu"),
}


def layer_types(spec: Union[str, Sequence[str]], depth: int = 8) -> tuple[str, ...]:
    """Returns the names of the layers of a flow, from the base to the data.

    `spec` is one preset word, whose block is repeated `depth` times, or the layers themselves as a tuple or as
    words with commas, which are taken as they are. The word maf alone is the preset; as a layer it takes a list of
    two or more. Raises UserError for a word that is neither, an empty list, or a depth below 1.
    """
    words = tuple(word.strip() for word in spec.split(",")) if isinstance(spec, str) else tuple(spec)
    if len(words) == 1 and words[0] in PRESETS:
        if int(depth) < 1:
            raise UserError(f"A flow has a depth of 1 or more; received depth={depth}.")
        return PRESETS[words[0]] * int(depth)
    for word in words or ("",):
        if word not in LAYERS:
            alone = " (a preset stands alone)" if word in PRESETS else ""
            raise UserError(
                f"Unknown flow layer {word!r}{alone}{suggestion(word, [*LAYERS, *PRESETS])}; allowed: one of the "
                f"presets {', '.join(PRESETS)}, or a list of {', '.join(LAYERS)}."
            )
    return words


def build(names: Sequence[str], num_dims: int, seed: int = 0, dtype: Any = None,
          **options: Any) -> list[FlowLayer]:
    """Returns the built layers that `names` lists, from the base to the data.

    Each layer takes from `options` (hidden_units, activation, bins, bound, context_dim,
    dropout, weight_decay) what it knows. Layer i is
    seeded with (seed, i). Raises UserError for a layer that cannot take `num_dims` dimensions.
    """
    layers = []
    for index, name in enumerate(names):
        known = {key: value for key, value in options.items() if key in LAYERS[name].options}
        layer = LAYERS[name](seed=(seed, index), dtype=dtype, name=f"{name}_{index}", **known)
        layer.build((None, num_dims))
        layers.append(layer)
    return layers
