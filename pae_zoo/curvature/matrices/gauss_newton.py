"""The Gauss-Newton matrix of a network's likelihood in its weights, summed over a batch."""

import dataclasses
import functools
import importlib
from typing import Any, Callable, Optional, Sequence, Union

import keras
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.curvature.matrices import dense_exact, hessians, kron, last_layer, low_rank, record, sweeps
from pae_zoo.curvature.network import pieces
from pae_zoo.curvature.network.graph import ALL, Block, Graph, Step, flatten, read
from pae_zoo.curvature.rules import registry
from pae_zoo.likelihoods import Likelihood

Model = Union[keras.Model, Sequence[keras.Model], Graph]
DIAG, BLOCK, KRON, LOW_RANK, LAST_LAYER = "diag", "block", "kron", "low_rank", "last_layer"
EXACT, APPROX, MIX, MC, HYBRID = "exact", "approx", "mix", "mc", "hybrid"
DENSE = "dense"
#: which methods each structure can be computed by
METHODS = {
    DIAG: (EXACT, APPROX, MIX, MC, HYBRID),
    BLOCK: (EXACT, MC),
    KRON: (EXACT, MC),
    LOW_RANK: (EXACT,),
    LAST_LAYER: (EXACT, MC),
}
STRUCTURES = tuple(METHODS)
_CACHE = "_curvature_cache"


class _Cache(dict):
    """Compiled functions of a model; copies of the model start with none."""

    def __deepcopy__(self, memo):
        return _Cache()

    def __reduce__(self):
        return _Cache, ()


@dataclasses.dataclass(frozen=True)
class Options:
    """What is computed, and how; checked when made. See `ggn`."""

    structure: str = DIAG
    method: str = EXACT
    likelihood: Union[str, Likelihood, hessians.OutputHessian] = "gaussian"
    layers: Union[str, tuple[str, ...]] = ALL
    num_probes: int = 1
    mix_width: int = 1024
    mix_pattern: Optional[str] = None
    hybrid_layers: int = 2
    rank: int = 32
    memory: float = 2048
    fallback: bool = False

    def __post_init__(self):
        _known("structure", self.structure, STRUCTURES)
        _known("method", self.method, METHODS[DIAG])
        if self.method not in METHODS[self.structure]:
            raise UserError(f"structure={self.structure!r} is not computed by method={self.method!r}; allowed: "
                            f"{', '.join(METHODS[self.structure])}.")
        for name, least in (("num_probes", 1), ("mix_width", 0), ("hybrid_layers", 0), ("rank", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or int(value) != value or value < least:
                raise UserError(f"{name}={value!r} must be an integer of at least {least}.")
        if self.mix_pattern not in (None, DENSE) or (self.mix_pattern and self.method != MIX):
            raise UserError(f"mix_pattern={self.mix_pattern!r} is unknown or not for method={self.method!r}; allowed: "
                            f"{DENSE!r} with method={MIX!r}, or None.")
        if not self.memory > 0:
            raise UserError(f"memory={self.memory!r} must be a number of MiB above 0.")

    @property
    def needs_seed(self) -> bool:
        """Whether the result depends on random numbers."""
        return self.method in (MC, HYBRID) or self.structure == LOW_RANK


def ggn(
    model: Model,
    x: Any,
    structure: str = DIAG,
    method: str = EXACT,
    likelihood: Union[str, Likelihood, hessians.OutputHessian] = "gaussian",
    layers: Union[str, Sequence[str]] = ALL,
    *,
    seed: Optional[seeds.Seed] = None,
    jit_compile: Optional[bool] = None,
    training: bool = False,
    **options: Any,
) -> Any:
    """Returns sum_n J_n^T H_n J_n, J_n the derivative of the network's output at x_n by its weights, at inference.

    H_n is the Hessian of -log p(y|g) by the output g, or its expectation over y. Compiled once for each model, shape
    and set of options, and not again for other weights; inside a `keras.StatelessScope` at the weights of the scope,
    compiled once more.

    Args:
      model: a built Keras model, or several that are applied in turn, such as (encoder, decoder).
      x: (batch, *event), what the network is given.
      structure: "diag", a flat vector (P,) in the order of trainable_weights; "block", a matrix (P_l, P_l) for each
        layer; "kron", two Kronecker factors for each layer; "low_rank", a sketch and the diagonal; "last_layer", all of
        the last layer.
      method: "exact"; "mc", unbiased, from `num_probes` random rows of covariance H for each datum; "hybrid", exact for
        the last `hybrid_layers` layers with weights and "mc" below; "approx", where only diagonals are carried through
        layers; "mix", where full matrices are up to `mix_width` values.
      likelihood: "gaussian" (H = I), "bernoulli", "categorical" (logits along the last axis; the sigmoid or softmax at
        a network's end is left out), or a layer of pae_zoo.likelihoods, with its own precision.
      layers: whose weights; see `Graph.select`.
      seed: a pair of integers for "mc", "hybrid" and "low_rank".
      jit_compile: whether XLA compiles it; None: not where convolutions run on a CPU.
      training: must be False; the curvature is that of the network at inference.
      options: num_probes (1), mix_width (1024), mix_pattern ("dense": full matrices between the dense layers before
        a Reshape and after a Flatten, in place of mix_width), hybrid_layers (2), rank (32) of "low_rank", memory
        (2048) in MiB, and fallback (False), which differentiates layers without a rule automatically.

    Raises UserError for options that contradict each other, layers without a rule, outputs that do not fit the
    likelihood, and what takes more than `memory`.

    Examples:
      >>> network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
      >>> x = tf.constant([[1.0, 2.0], [3.0, 4.0]])
      >>> ggn(network, x, jit_compile=False).numpy().tolist()  # sums of squared inputs, and 1 for each datum
      [10.0, 20.0, 2.0]
    """
    graph = model if isinstance(model, Graph) else read(model)
    if training:
        raise UserError(f"training=True: {_coupled(graph)}; the curvature is that of the network at inference, a sum "
                        "over data. Leave training out.")
    # Before anything is traced.
    chosen = check(graph, structure, method, likelihood, layers, seed, options)
    if jit_compile is None:
        jit_compile = _xla_pays(graph)
    variables = [v for one in graph.models for v in one.variables if tf.as_dtype(v.dtype).is_floating]
    function = _compiled(graph, chosen, variables, jit_compile)
    values: Optional[list[Any]] = [variable.value for variable in variables]
    if all(isinstance(value, tf.Variable) for value in values or ()):
        # Outside of a StatelessScope: the function reads its variables, which is quicker than to be given them.
        values = None
    return function(graph.cast(x), seeds.as_seed((0, 0) if seed is None else seed), values)


def check(graph: Graph, structure: str, method: str, likelihood: Union[str, Likelihood, hessians.OutputHessian],
          layers: Union[str, Sequence[str]], seed: Any, options: dict[str, Any]) -> Options:
    """Returns the arguments of `ggn` as one object; raises UserError for what it refuses before any tracing."""
    chosen = _options(structure, method, likelihood, layers, seed, options)
    graph.select(chosen.layers)
    hessians.resolve(likelihood)
    return chosen


def ggn_fn(
    graph: Graph,
    x: tf.Tensor,
    structure: str = DIAG,
    method: str = EXACT,
    likelihood: Union[str, Likelihood, hessians.OutputHessian] = "gaussian",
    layers: Union[str, Sequence[str]] = ALL,
    *,
    seed: Optional[seeds.Seed] = None,
    **options: Any,
) -> Any:
    """Returns what `ggn` does, uncompiled: a pure function to be called inside a compiled step.

    Reads the weights when called, in a `keras.StatelessScope` those of the scope. Arguments as those of `ggn`.
    """
    return _compute(graph, x, _options(structure, method, likelihood, layers, seed, options), seed)


def _options(structure, method, likelihood, layers, seed, options: dict[str, Any]) -> Options:
    for name in options:
        _known("option", name, [field.name for field in dataclasses.fields(Options)][4:])
    layers = layers if isinstance(layers, str) else tuple(layers)
    chosen = Options(structure, method, likelihood, layers, **options)
    if chosen.needs_seed and seed is None:
        raise UserError(f"structure={structure!r} by method={method!r} draws random numbers; give a seed, such as "
                        "seed=(0, 1).")
    return chosen


def _compute(graph: Graph, x: tf.Tensor, options: Options, seed: Optional[seeds.Seed]) -> Any:
    graph, hessian = graph.of_logits(options.likelihood), hessians.resolve(options.likelihood)
    blocks, x = graph.select(options.layers), graph.cast(x)
    with pieces.work_bytes(min(pieces.WORK_BYTES, int(options.memory * 2**20) // 4)):
        return _STRUCTURES[options.structure](graph, x, hessian, blocks, options, seed)


def _diag(graph: Graph, x, hessian, blocks, options: Options, seed) -> tf.Tensor:
    if options.method == APPROX:
        return _propagated(graph, x, hessian, blocks, options)
    run = _run(graph, x, hessian, options)
    line = dense_exact.line(run, hessian)
    dense = [block for block in blocks if graph.step_of(block) in line and not graph.is_shared(block)]
    if options.method == MIX:
        # Where all matrices are carried in full the result is exact, and there is a faster way to it.
        is_exact = len(dense) == len(blocks) and not options.mix_pattern and _widest(run, line) <= options.mix_width
        if not is_exact:
            return _propagated(graph, x, hessian, blocks, options)
    found: dict[Block, list[tf.Tensor]] = {}
    top = _top(graph, blocks, options, line)
    if top and all(block in dense for block in top):
        found.update(zip(top, dense_exact.diagonal(run, hessian, top, options.memory)))
        top = []
    rest = [block for block in blocks if block not in found and block not in top]
    if top or rest:
        budget, collector = _budget(run, blocks, sum(block.size for block in blocks), options), sweeps.diagonals(run)
        if top:
            found.update(zip(top, sweeps.all_rows(run, hessian, top, collector, budget)))
        if rest:
            sums = sweeps.sampled(run, hessian, rest, collector, seed, options.num_probes, budget)
            found.update(zip(rest, sums))
    return flatten([one for block in blocks for one in found[block]])


def _propagated(graph: Graph, x, hessian, blocks, options: Options) -> tf.Tensor:
    shared = [block.name for block in blocks if graph.is_shared(block)]
    if shared:
        raise UserError(f"method={options.method!r} loses what the uses of a layer have in common, and "
                        f"{shared[0]!r} is used several times; take method='exact', 'mc' or 'hybrid'.")
    width = options.mix_width if options.method == MIX else 0
    return flatten(_module("propagation").diagonal(
        graph, x, hessian, blocks, width, pattern=options.mix_pattern, memory=options.memory,
        fallback=options.fallback))


def _widest(run: record.Record, line: Sequence[Step]) -> int:
    """Returns the number of values of the widest input or output of a step."""
    return max(tensor.shape[1:].num_elements() for step in line for tensor in (run.inputs[step], run.outputs[step]))


def _block(graph: Graph, x, hessian, blocks, options: Options, seed) -> list[tf.Tensor]:
    run = _run(graph, x, hessian, options)
    budget = _budget(run, blocks, sum(block.size**2 for block in blocks), options)
    collector = sweeps.blocks_of_layers(run)
    if options.method == EXACT:
        found = sweeps.all_rows(run, hessian, blocks, collector, budget)
    else:
        found = sweeps.sampled(run, hessian, blocks, collector, seed, options.num_probes, budget)
    return [one for (one,) in found]


def _kron(graph: Graph, x, hessian, blocks, options: Options, seed) -> Any:
    return kron.compute(
        graph, x, hessian, blocks, options.method, seed, options.num_probes, options.memory, options.fallback)


def _low_rank(graph: Graph, x, hessian, blocks, options: Options, seed) -> low_rank.Sketch:
    sketch = low_rank.compute(graph, x, hessian, blocks, options.rank, seed, options.memory, options.fallback)
    # What the sketch does not see is told from the diagonal: exact where that costs less than the sketch, else by
    # probes, other ones for other data, since sketches that are added have one seed.
    run = _run(graph, x, hessian, options)
    line = dense_exact.line(run, hessian)
    few = run.output.shape[1:].num_elements() <= 2 * options.rank
    method = EXACT if few or all(graph.step_of(block) in line for block in blocks) else MC
    number = tf.reduce_sum(tf.bitcast(tf.cast(x, tf.float32), tf.int32))
    probes = seeds.fold_in(seeds.stream(seed, "low_rank/diagonal"), number)
    chosen = dataclasses.replace(options, structure=DIAG, method=method, num_probes=1)
    return sketch._replace(diagonal=_diag(graph, x, hessian, blocks, chosen, probes))


def _last_layer(graph: Graph, x, hessian, blocks, options: Options, seed) -> Any:
    return last_layer.compute(
        graph, x, hessian, blocks, options.memory, options.fallback, options.method, seed, options.num_probes)


_STRUCTURES: dict[str, Callable] = {
    DIAG: _diag, BLOCK: _block, KRON: _kron, LOW_RANK: _low_rank, LAST_LAYER: _last_layer}


def _top(graph: Graph, blocks: Sequence[Block], options: Options, line: Sequence[Step]) -> list[Block]:
    """Returns the chosen blocks that are computed exactly; `line` holds those of which dense_exact can do it."""
    if options.method in (EXACT, MIX):
        return list(blocks)
    weighted = [step for step in graph.chain.flat() if step.variables]
    # Probes of random signs give the last dense layer exactly, and the closed form does so with fewer operations.
    num = options.hybrid_layers if options.method == HYBRID else int(weighted[-1] in line)
    steps = weighted[max(0, len(weighted) - num) :]
    return [block for block in blocks if graph.step_of(block) in steps]


def _run(graph: Graph, x: tf.Tensor, hessian: hessians.OutputHessian, options: Options) -> record.Record:
    run = record.forward(graph, x, options.fallback)
    hessian.check(run.output)
    return run


def _budget(run: record.Record, blocks: Sequence[Block], result_size: int, options: Options) -> int:
    """Returns the bytes for rows in flight; raises UserError where the rest leaves none."""
    item = run.output.dtype.size
    needed = 2 * item * result_size
    if options.structure == BLOCK:
        parts = [f"structure='diag' takes {sweeps.mib(2 * item * run.graph.size)} MiB of results"]
        last = run.graph.blocks[-1]
        if len(blocks) > 1 and last.size**2 < result_size:
            parts.append(f"layers='last' {sweeps.mib(2 * item * last.size**2)} MiB")
        advice = f"{', '.join(parts)}; structure='kron' is the way between the two."
    else:
        advice = "Take a smaller batch (results add up), fewer layers, or a larger memory."
    what = f"structure={options.structure!r} by method={options.method!r} of {len(blocks)} layers"
    return sweeps.check_memory(run, needed, options.memory, what, advice)


def _module(name: str) -> Any:
    return importlib.import_module(f"pae_zoo.curvature.{name}")


def _flatten(result: Any) -> tf.Tensor:
    return result if tf.is_tensor(result) else flatten(result)


def _compiled(graph: Graph, options: Options, variables: Sequence[keras.Variable], jit_compile: bool) -> Callable:
    """Returns the compiled function of (x, seed, values of `variables` or None), kept with the last model."""
    home = graph.models[-1]
    # Not by plain assignment: Keras would track it as a part of the model.
    cache = home.__dict__.setdefault(_CACHE, _Cache())
    # The function keeps all these objects, so that no other can have their ids.
    parts = (*graph.variables, *(step.layer for step in graph.chain.flat()))
    likelihood = options.likelihood if isinstance(options.likelihood, str) else id(options.likelihood)
    key = (tuple(map(id, parts)), dataclasses.replace(options, likelihood="gaussian"), likelihood, jit_compile,
           registry.version())
    if key not in cache:

        def function(x, seed, values):
            if values is None:
                return _compute(graph, x, options, seed)
            with keras.StatelessScope(state_mapping=list(zip(variables, values))):
                return _compute(graph, x, options, seed)

        # TensorFlow warns when the same code is traced often, and takes partial objects for code of their own.
        cache[key] = tf.function(functools.partial(function), jit_compile=jit_compile, autograph=False)
    return cache[key]


def _xla_pays(graph: Graph) -> bool:
    """Whether XLA makes the curvature faster: not convolutions on a CPU, which are slow inside its loops."""
    convolutional = any(len(variable.shape) > 2 for variable in graph.variables)
    return not convolutional or bool(tf.config.list_logical_devices("GPU"))


def _coupled(graph: Graph) -> str:
    """Returns what is wrong with the network in training, naming a layer."""
    for step in graph.chain.flat():
        if isinstance(step.layer, keras.layers.BatchNormalization):
            return f"batch normalisation {step.layer.name!r} couples the data of a batch in training"
    return "layers may be random in training"


def _known(name: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise unknown(name, value, allowed)
