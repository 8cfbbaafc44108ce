"""Which likelihood a compiled Keras model's loss is the negative log of, and of which output."""

from typing import Any, Optional

import keras

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.network.graph import LOGITS, Graph, read

# Keras' losses: the likelihood that each is the negative log of.
_LOSSES = {
    "mean_squared_error": "gaussian",
    "binary_crossentropy": "bernoulli",
    "categorical_crossentropy": "categorical",
    "sparse_categorical_crossentropy": "categorical",
}


def of_model(model: keras.Model, likelihood: Optional[Any] = None) -> tuple[Graph, Any]:
    """Returns the graph whose output the likelihood is of, and the likelihood: that given, or that of the loss.

    The graph of a cross-entropy is that of logits. Raises UserError for a loss that is none of the mean squared error
    and cross-entropies, and for one of probabilities that the network does not end in.
    """
    graph = read(model)
    if likelihood is not None:
        return graph.of_logits(likelihood), likelihood
    loss: Any = getattr(model, "loss", None)
    name = keras.losses.get(loss) if isinstance(loss, str) else loss
    name = getattr(name, "name", None) or getattr(name, "__name__", "")
    if name not in _LOSSES:
        raise UserError(f"The loss {name or loss!r} is no likelihood that is known here; allowed: "
                        f"{', '.join(_LOSSES)}. Give the likelihood by name.")
    kind = _LOSSES[name]
    from_logits = getattr(loss, "from_logits", None)
    if from_logits is None:
        from_logits = bool(getattr(loss, "_fn_kwargs", {}).get("from_logits", False))
    if kind not in LOGITS or from_logits:
        return graph, kind
    if not graph.ends_in(LOGITS[kind]):
        raise UserError(f"The loss {name} is of probabilities, and the last layer of {model.name!r} has no "
                        f"{LOGITS[kind].__name__}. Let the network end in one, or give logits and from_logits=True.")
    return graph.without_last(), kind
