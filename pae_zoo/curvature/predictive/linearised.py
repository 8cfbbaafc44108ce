"""Prediction in one pass: the network as a linear function of its weights around their mean.

With J_n the derivative of the output at x_n by the weights and Lambda^-1 the posterior's covariance, the output is
normal with covariance J_n Lambda^-1 J_n^T. Immer, Korzepa & Bauer, Improving predictions of Bayesian neural nets via
local linearization, AISTATS 2021. All functions are pure and may be called in a compiled one.
"""

import math
from typing import Any, Optional, Sequence, Union

import keras
import tensorflow as tf

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.curvature.matrices import hessians, record, sweeps
from pae_zoo.curvature.network import matrix_form, pieces
from pae_zoo.curvature.network.graph import Block, Chain, Graph, Step, as_list
from pae_zoo.curvature.posteriors.base import WeightPosterior
from pae_zoo.curvature.posteriors.dense import DiagPosterior
from pae_zoo.curvature.predictive import variance_propagation as propagation

Model = Union[keras.Model, Sequence[keras.Model], Graph]
EXACT, DIAGONAL = "exact", "diagonal"
# Gradients of one piece of data and rows take no more than this, so that most fits the cache and all the memory.
PIECE_BYTES = 128 * 2**20


def covariance(posterior: WeightPosterior, model: Model, x: tf.Tensor, memory: float = 2048,
               fallback: bool = False) -> tf.Tensor:
    """Returns J Lambda^-1 J^T (B, d, d) of outputs of d values, exactly, by d backward passes: for latents.

    Args:
      posterior: over the weights of the network, or of a longer one.
      model: the network, at its weights as they are now; of (encoder, decoder) the encoder alone gives the latents.
      x: (B, *event).
      memory: allowed, in MiB.
      fallback: whether layers without a rule are differentiated automatically.

    Raises UserError for a model that is not the beginning of the posterior's, and above `memory`.
    """
    sums = _Sums(posterior, model, fallback)
    x = sums.graph.cast(x)
    width = math.prod(sums.output_shape(x))
    piece = sums.data_at_once(x, width, memory)
    return _in_pieces(x, piece, lambda part: sums.covariance(part, width))


def variance(posterior: WeightPosterior, model: Model, x: tf.Tensor, memory: float = 2048,
             fallback: bool = False) -> tf.Tensor:
    """Returns the diagonal of J Lambda^-1 J^T in the output's shape (B, *event), exactly, by as many backward passes.

    Arguments and errors are those of `covariance`; some rows of J are in memory at a time. Of (encoder, decoder) they
    end at the latents where these are fewer than the outputs and no two layers are correlated: what the encoder adds
    is there in the latents' covariance.
    """
    sums = _Sums(posterior, model, fallback)
    x = sums.graph.cast(x)
    shape = sums.output_shape(x)
    below = None
    # A layer that both have would be correlated with itself.
    if posterior.is_separate and len(sums.graph.models) > 1 and len(sums.steps) == len(sums.blocks):
        below = _Sums(posterior, sums.graph.models[0], fallback)
        below = below if math.prod(below.output_shape(x)) < math.prod(shape) else None
    piece = sums.data_at_once(x, 1 if below is None else math.prod(below.output_shape(x)), memory)
    rows = sums.rows_at_once(x, piece, math.prod(shape), memory)
    return _in_pieces(x, piece, lambda part: sums.variance(part, shape, rows, below))


def products(posterior: WeightPosterior, model: Model, x: tf.Tensor, rows: tf.Tensor, memory: float = 2048,
             fallback: bool = False) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns C v, w and C w (B, R, *event) of each datum, C = J Lambda^-1 J^T, by 2 R passes back and forth.

    v (R, *event) are `rows`, w orthonormal ones that span C v, nearer to what is largest in C. Other arguments and
    errors are those of `covariance`.
    """
    sums = _Sums(posterior, model, fallback)
    x = sums.graph.cast(x)
    # What goes forward again was kept on the way back.
    piece = sums.data_at_once(x, 3 * rows.shape[0], memory)
    first, basis, image = tf.unstack(_in_pieces(x, piece, lambda part: sums.products(part, rows)), axis=1)
    return first, basis, image


def output_shape(model: Graph, x: tf.Tensor) -> tuple[int, ...]:
    """Returns the shape of one datum's output."""
    shape = x.shape
    for one in model.models:
        shape = one.compute_output_shape(shape)
    return tuple(shape[1:])


def predict(posterior: WeightPosterior, models: Union[keras.Model, Sequence[keras.Model]], x: Any,
            output: Optional[str] = None, noise: bool = False, **options: Any) -> dict[str, tf.Tensor]:
    """Returns the moments of a network's outputs, of an autoencoder's latents too, in one pass.

    Args:
      posterior: over the weights of all models.
      models: (encoder, decoder), or one model, at their weights as they are now; `posterior.assign_to` makes them those
        that the posterior is around.
      x: (B, *event), what the first is given.
      output: "exact" for `variance`, or "diagonal" for `variance_propagation.variance`, which is one forward pass and
        knows nothing of what weights have in common; None: diagonal for a posterior that is, else exact.
      noise: whether the noise variance is added to that of the outputs.
      options: memory and fallback of `covariance`.

    Returns "mean" and "variance" (B, *event); of several models also "latent_mean" (B, d) and "latent_covariance"
    (B, d, d), of the output of the first.
    """
    output = output or (DIAGONAL if isinstance(posterior, DiagPosterior) else EXACT)
    if output not in (EXACT, DIAGONAL):
        raise unknown("output", output, (EXACT, DIAGONAL))
    models = as_list(models)
    encoder, x = models[0], tf.convert_to_tensor(x)
    latent = encoder(x, training=False)
    mean = latent
    for model in models[1:]:
        mean = model(mean, training=False)
    spread = (variance(posterior, models, x, **options) if output == EXACT else
              propagation.variance(posterior, models, x))
    if noise:
        spread += tf.cast(tf.convert_to_tensor(posterior.noise_variance), spread.dtype)
    found = {"mean": mean, "variance": spread}
    if len(models) > 1:
        found.update(latent_mean=latent, latent_covariance=covariance(posterior, encoder, x, **options))
    return found


class _Sums:
    """Products of rows of J with the covariance, layer by layer, so that rows over all weights are rarely made."""

    def __init__(self, posterior: WeightPosterior, model: Model, fallback: bool):
        self.posterior, self.fallback = posterior, fallback
        self.graph = posterior.graph_of(model)
        self.prepared = posterior.prepare()
        chosen = [index for index, part in enumerate(posterior.layout.parts) if part.chosen]
        # Number among the chosen layers -> the block.
        self.blocks: dict[int, Block] = {
            number: self.graph.blocks[index] for number, index in enumerate(chosen) if index < len(self.graph.blocks)}
        self.steps: dict[Step, int] = {
            use: number for number, block in self.blocks.items() for use in self.graph.uses(self.graph.step_of(block))}

    def output_shape(self, x: tf.Tensor) -> tuple[int, ...]:
        """Returns the shape of one datum's output."""
        return output_shape(self.graph, x)

    def data_at_once(self, x: tf.Tensor, num_rows: int, memory: float) -> int:
        """Returns how many data are worked on together; raises UserError where one is too many."""
        needed = self._bytes(x) * num_rows
        if needed > memory * 2**20:
            raise UserError(f"{num_rows} rows of derivatives of one datum take {needed / 2**20:,.0f} MiB; memory="
                            f"{memory:g} MiB are allowed. Take output='diagonal' or samples, or fewer layers.")
        return max(1, int(min(memory * 2**20 / 4, PIECE_BYTES) // needed))

    def rows_at_once(self, x: tf.Tensor, num_data: int, num_rows: int, memory: float) -> int:
        """Returns how many rows of so many data are worked on together."""
        batch = min(num_data, x.shape[0] or num_data)
        return max(1, min(num_rows, int(min(memory * 2**20 / 4, PIECE_BYTES) // (self._bytes(x) * batch))))

    def covariance(self, x: tf.Tensor, width: int) -> tf.Tensor:
        """Returns the covariance of the outputs of some data, (B, width, width)."""
        run = record.forward(self.graph, x, self.fallback)
        rows = hessians.Gaussian().root_rows(run.output, tf.constant(0), width)
        return self._total(
            run, rows,
            lambda moments, delta: tf.einsum("bj,kbj,lbj->bkl", moments, delta, delta),
            lambda white: tf.einsum("kbp,lbp->bkl", white, white))

    def variance(self, x: tf.Tensor, shape: tuple[int, ...], rows_at_once: int,
                 below: Optional["_Sums"] = None) -> tf.Tensor:
        """Returns the variances of the outputs of some data, (B, *shape); `below` is of the first model, if given."""
        run = record.forward(self.graph, x, self.fallback)
        width = math.prod(shape)
        inner = None
        if below is not None:
            inner = below.covariance(x, math.prod(below.output_shape(x)))
        own = self._of_last(run)

        def some(index):
            rows = hessians.Gaussian().root_rows(run.output, index * rows_at_once, rows_at_once)
            return self._total(
                run, rows,
                lambda moments, delta: tf.einsum("bj,rbj->rb", moments, delta**2),
                lambda white: tf.reduce_sum(white**2, axis=-1), below, inner, own is not None)

        found = pieces.one_by_one(some, tf.range(-(-width // rows_at_once)), x.dtype)
        found = tf.transpose(tf.reshape(found, (-1, pieces.size(x, 0)))[:width])
        return tf.reshape(found if own is None else found + own, (-1, *shape))

    def _of_last(self, run: record.Record) -> Optional[tf.Tensor]:
        """Returns what the last layer adds to the variances (B, n_out), where the outputs are its own and it is known.

        Rows of J are unit vectors there, which need not be multiplied with anything.
        """
        last = self.graph.chain.steps[-1]
        if not isinstance(last, Step) or last not in self.steps:
            return None
        moments = self._moments(last, run.inputs[last])
        if moments is None:
            return None
        variances, right = moments
        return variances if right is None else tf.matmul(variances, right**2, transpose_b=True)

    def products(self, x: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        """Returns what the function of this name does, of some data, as (B, 3, R, *event)."""
        run = record.forward(self.graph, x, self.fallback)
        shape = (rows.shape[0], pieces.size(x, 0), *rows.shape[1:])
        first = self._times(run, tf.broadcast_to(tf.cast(rows, x.dtype)[:, None], shape))
        columns = tf.transpose(tf.reshape(tf.cast(first, tf.float64), (*shape[:2], -1)), (1, 2, 0))
        basis = tf.transpose(tf.linalg.qr(columns)[0], (2, 0, 1))
        basis = tf.reshape(tf.cast(basis, x.dtype), shape)
        found = tf.stack([first, basis, self._times(run, basis)])
        return tf.transpose(found, (2, 0, 1, *range(3, found.shape.rank)))

    def _times(self, run: record.Record, rows: tf.Tensor) -> tf.Tensor:
        """Returns the covariance of the outputs times rows (R, B, *event)."""
        # v^T C v is what `_total` knows, and its gradient by v is 2 C v.
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(rows)
            squares = self._total(
                run, rows,
                lambda moments, delta: tf.einsum("bj,rbj->rb", moments, delta**2),
                lambda white: tf.reduce_sum(white**2, axis=-1))
        return 0.5 * tape.gradient(squares, rows, unconnected_gradients=tf.UnconnectedGradients.ZERO)

    def _total(self, run: record.Record, rows: tf.Tensor, of_moments, of_white, below: Optional["_Sums"] = None,
               inner: Optional[tf.Tensor] = None, without_last: bool = False) -> tf.Tensor:
        total: list[tf.Tensor] = []
        chosen = [step for step in self.steps if not (without_last and step is self.graph.chain.steps[-1])]
        gradients: dict[int, tf.Tensor] = {}
        left = {number: len(self.graph.uses(self.graph.step_of(block))) for number, block in self.blocks.items()}

        def visit(step, delta):
            number, a = self.steps[step], run.inputs[step]
            moments = self._moments(step, a)
            if moments is not None:
                variances, right = moments
                total.append(of_moments(variances, delta if right is None else tf.tensordot(delta, right, 1)))
                return
            found = run.rule(step).rows(step.layer, a, delta)
            if number in gradients:
                found += gradients.pop(number)
            left[number] -= 1
            if left[number]:
                gradients[number] = found
                return
            if self.posterior.is_separate:
                white = self.posterior.whiten_part(number, _flat(found), self.prepared)
                total.append(of_white(tf.reshape(white, tf.shape(found))))
            else:
                gradients[number] = found

        if below is not None and inner is not None:
            cut = len(below.graph.chain.steps)
            inside = set(_flat_steps(self.graph.chain.steps[cut:]))
            ends = run.descend(self.graph.chain.steps[cut:], rows, inside & set(chosen), visit, to_input=True)
            ends = tf.reshape(ends, (*tf.unstack(tf.shape(rows)[:2]), inner.shape[-1]))
            total.append(tf.einsum("rbk,bkl,rbl->rb", ends, inner, ends))
        else:
            run.backward(rows, chosen, visit)
        if gradients:
            total.append(of_white(self._white(gradients)))
        # None of the model's layers may be uncertain.
        return tf.add_n(total or [of_white(tf.zeros_like(tf.reshape(rows, (*tf.unstack(tf.shape(rows)[:2]), -1))))])

    def _moments(self, step: Step, a: tf.Tensor):
        """Returns what the posterior knows of gradients that are one outer product, or None."""
        if type(step.layer) is not keras.layers.Dense or a.shape.rank != 2:
            return None
        if self.graph.is_shared(self.blocks[self.steps[step]]):
            return None
        if matrix_form.form_of(step.layer) == matrix_form.NONE:
            return None
        return self.posterior.moments(self.steps[step], matrix_form.inputs(step.layer, a)[:, 0], self.prepared)

    def _white(self, gradients: dict[int, tf.Tensor]) -> tf.Tensor:
        some = next(iter(gradients.values()))
        leading = tf.shape(some)[:2]
        rows = [
            gradients[number] if number in gradients else tf.zeros((*tf.unstack(leading), size), some.dtype)
            for number, size in enumerate(self.posterior.layout.sizes)
        ]
        rows = tf.concat(rows, axis=-1)
        return tf.reshape(self.posterior.whiten(_flat(rows), self.prepared), tf.shape(rows))

    def _bytes(self, x: tf.Tensor) -> int:
        """Returns about the bytes that one row of one datum takes."""
        sizes = [block.size for block in self.blocks.values()]
        largest = sum(self.posterior.layout.sizes) if not self.posterior.is_separate else 0
        for step, number in self.steps.items():
            # Products of single vectors are not written out.
            alone = type(step.layer) is keras.layers.Dense and not self.graph.is_shared(self.blocks[number])
            if not alone or not self.posterior.has_moments:
                largest = max(largest, self.blocks[number].size)
        width = max([1, *(math.prod(block.variables[-1].shape) for block in self.blocks.values())])
        return x.dtype.size * (2 * largest + sweeps.COPIES * min(width, max(sizes, default=1)))


def _flat_steps(steps: Sequence[Any]) -> list[Step]:
    return list(Chain(tuple(steps)).flat())


def _flat(rows: tf.Tensor) -> tf.Tensor:
    return tf.reshape(rows, (-1, rows.shape[-1]))


def _in_pieces(x: tf.Tensor, piece: int, function) -> tf.Tensor:
    """Returns function(x) of data x, some at a time."""
    number = pieces.size(x, 0)
    if isinstance(number, int) and number <= piece:
        return function(x)
    padded = pieces.pad(x, 0, piece)
    found = pieces.one_by_one(
        lambda index: function(pieces.cut(padded, 0, index, piece)), tf.range(-(-number // piece)), x.dtype)
    return tf.reshape(found, (-1, *found.shape[2:]))[:number]

