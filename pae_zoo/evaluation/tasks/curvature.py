"""The ways to find the curvature of the weights, beside each other on one trained network."""


import dataclasses
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from pae_zoo import curvature
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.core.hparams import EVALUATION, option
from pae_zoo.evaluation.context import UNSUPPORTED, Context
from pae_zoo.evaluation.metrics.calibration import spearman
from pae_zoo.plotting import uncertainty

REFERENCE = "exact"


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of the task curvature."""

    curvature_images: int = option(1000, "Training data on which the task curvature compares its methods.", low=1,
                                   group=EVALUATION, smoke=64)


def run(context: Context) -> Iterator[tuple[str, Any]]:
    """Diagonals of the Gauss-Newton matrix by each method against the exact one, layer by layer, and their times.

    H is that of a Gaussian with sigma = 1, summed over `--curvature_images` training data. Needs a model whose
    encoder gives codes, raw scales behind them or not, and layers that `pae_zoo.curvature` knows.
    """
    graph = _graph(context.model)
    train = context.dataset.train.x
    x = train[context.choose(len(train), int(context.hparams.curvature_images), "curvature")]
    layers = _layers(graph)
    found: dict[str, np.ndarray] = {}
    for method in curvature.METHODS["diag"]:
        try:
            found[method], seconds = _diagonal(context, graph, x, method)
        except UserError as error:  # it does not fit in memory
            yield from context.unsupported([f"curvature/{method}"], NotImplementedError(str(error)))
            continue
        yield f"curvature/{method}/sum", found[method].sum()
        if seconds is not None:
            yield f"curvature/{method}/seconds", seconds
    if REFERENCE not in found:
        yield "curvature/ratio", UNSUPPORTED
        return
    ratios, exact = {}, found[REFERENCE]
    for method in (name for name in found if name != REFERENCE):
        yield f"curvature/{method}/ratio", found[method].sum() / exact.sum()
        ranks = [spearman(found[method][part], exact[part]) for part in layers.values()]
        yield f"curvature/{method}/spearman", np.mean(ranks)
        ratios[method] = {name: found[method][part].sum() / exact[part].sum() for name, part in layers.items()}
        for name, value in ratios[method].items():
            yield f"curvature/{method}/ratio/{name}", value
    columns = {"layer": list(layers), "weights": [part.stop - part.start for part in layers.values()]}
    columns |= {method: [values[part].sum() for part in layers.values()] for method, values in found.items()}
    context.table("curvature.csv", columns)
    title = f"{context.dataset.name}, {len(x):,} data: summed diagonal of each layer, as a multiple of the exact one"
    figure = uncertainty.ratios({name: list(values.values()) for name, values in ratios.items()},
                                         list(layers), title)
    context.board.figure("curvature", figure)
    context.figure("curvature", figure)


def _graph(model) -> curvature.Graph:
    if not hasattr(model, "codes_chain"):
        raise NotImplementedError(
            f"The encoder of {type(model).__name__} gives more than codes, so that encoder and decoder are no chain.")
    try:
        return curvature.read(model.codes_chain())
    except UserError as error:
        raise NotImplementedError(str(error))


def _layers(graph: curvature.Graph) -> dict[str, slice]:
    """Returns {layer: where its weights are in the flat diagonal}; the layer's place makes its name unique."""
    found, start = {}, 0
    for number, block in enumerate(graph.blocks, start=1):
        found[f"{number}_{block.name.split('/')[-1]}"] = slice(start, start + block.size)
        start += block.size
    return found


def _diagonal(context: Context, graph: curvature.Graph, x: np.ndarray, method: str):
    """Returns the diagonal summed over x, (P,), float64, and the median seconds of a batch after the first, or None."""
    total, times, base = np.zeros(graph.size), [], context.seed_for("curvature")
    size = int(context.hparams.batch_size)
    with context.progress(-(-len(x) // size), f"curvature, {method}") as bar:
        for number, start in enumerate(range(0, len(x), size)):
            y, _ = context.model.preprocess(tf.constant(x[start : start + size]))
            begin = time.perf_counter()
            one = curvature.ggn(graph, y, method=method, seed=seeds.fold_in(base, number)).numpy()
            if 0 < number and len(y) == size:  # neither the first batch, which compiles, nor a smaller one
                times.append(time.perf_counter() - begin)
            total += one
            bar.update()
    return total, statistics.median(times) if times else None
