"""Posteriors that keep the curvature's entries themselves: the diagonal, blocks of layers, the last layer."""

from typing import Any, Optional, Sequence

import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core.errors import UserError, unknown
from pae_zoo.curvature.matrices.last_layer import FULL, OUTPUTS, SHARED, LastLayer
from pae_zoo.curvature.network import matrix_form
from pae_zoo.curvature.network.graph import LAST
from pae_zoo.curvature.network.layout import Source
from pae_zoo.curvature.posteriors import evidence
from pae_zoo.curvature.posteriors.base import WeightPosterior, finite, triangular_factor


@register_keras_serializable("pae_zoo")
class DiagPosterior(WeightPosterior):
    """Independent weights: Lambda_i = kappa G_i / sigma^2 + gamma_l. See `WeightPosterior` for the arguments."""

    structure = "diag"
    has_moments = True

    def _make(self):
        self.curvature = self._weight("curvature", (self.layout.num_chosen,))

    def assign_curvature(self, curvature: Any) -> None:
        curvature = tf.cast(curvature, self.curvature.dtype)
        if curvature.shape != self.curvature.shape:
            raise UserError(f"The diagonal has {self.layout.num_chosen} entries, one for each chosen weight; received "
                            f"shape {tuple(curvature.shape)}.")
        finite([curvature], "a diagonal posterior")
        if tf.executing_eagerly() and bool(tf.reduce_any(curvature < 0)):
            raise UserError("The diagonal of a curvature has no negative entries; received "
                            f"{float(tf.reduce_min(curvature)):g}.")
        self.curvature.assign(curvature)

    def prior_diag(self) -> tf.Tensor:
        """Returns gamma of every chosen weight, (P_c,)."""
        return tf.concat([tf.fill((size,), prior) for size, prior in zip(self.layout.sizes, self.priors())], axis=0)

    def precision(self) -> Any:
        return self.scale() * tf.convert_to_tensor(self.curvature) + self.prior_diag()

    def prepare(self) -> list[tf.Tensor]:
        return [tf.math.rsqrt(self.precision())]

    def root(self, noise: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        return (prepared or self.prepare())[0] * noise

    def whiten(self, rows: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        return (prepared or self.prepare())[0] * rows

    def whiten_part(self, number: int, rows: tf.Tensor, prepared: list[tf.Tensor]) -> tf.Tensor:
        return tf.split(prepared[0], self.layout.sizes)[number] * rows

    def moments(self, number: int, seen: tf.Tensor, prepared: list[tf.Tensor]) -> Optional[tuple]:
        part = self.layout.chosen[number]
        std = tf.split(prepared[0], self.layout.sizes)[number]
        return tf.matmul(seen**2, matrix_form.to_matrix(std[None], part.form, part.shapes)[0] ** 2), None

    def variances(self, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        return 1.0 / self.precision()

    def spectrum(self) -> evidence.Spectrum:
        return evidence.Separate(np.split(self.curvature.numpy(), np.cumsum(self.layout.sizes)[:-1]))

    def _faults(self, state):
        return "its diagonal has negative entries" if (state["curvature"] < 0).any() else None


class _Triangular(WeightPosterior):
    """Posteriors by Cholesky factors: a subclass says which matrices there are and how weights lie in them."""

    def _matrices(self) -> list[tf.Tensor]:
        """Returns the matrices (k_l, n_l, n_l) of G, each for n_l weights k_l times, or for all columns if k_l is 1."""
        raise NotImplementedError(f"{type(self).__name__} does not say which matrices hold its curvature.")

    def _columns(self, flat: tf.Tensor) -> tf.Tensor:
        """Returns weights (n, P_l) of a layer as (k_l, n_l, columns)."""
        return tf.transpose(flat)[None]

    def _flat(self, columns: tf.Tensor) -> tf.Tensor:
        """Returns the inverse of `_columns`."""
        return tf.transpose(columns[0])

    def prepare(self) -> list[tf.Tensor]:
        return [
            tf.cast(triangular_factor(matrix, self.scale(tf.float64), prior), self.mean.dtype)
            for matrix, prior in zip(self._matrices(), self.priors(tf.float64))
        ]

    def root(self, noise: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        return self._solve(noise, prepared or self.prepare(), adjoint=True)

    def whiten(self, rows: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        return self._solve(rows, prepared or self.prepare(), adjoint=False)

    def whiten_part(self, number: int, rows: tf.Tensor, prepared: list[tf.Tensor]) -> tf.Tensor:
        return self._solve_part(rows, prepared[number], adjoint=False)

    def _solve(self, flat, prepared, adjoint):
        solved = [self._solve_part(one, lower, adjoint) for one, lower in zip(self._split(flat), prepared)]
        return tf.concat(solved, axis=-1)

    def _solve_part(self, flat, lower, adjoint):
        solved = tf.linalg.triangular_solve(lower, self._columns(flat), lower=True, adjoint=adjoint)
        return self._flat(solved)

    def precision(self) -> Any:
        return [
            self.scale() * matrix + prior * tf.eye(matrix.shape[-1], dtype=matrix.dtype)
            for matrix, prior in zip(self._matrices(), self.priors())
        ]

    def _inverse_diagonals(self, prepared) -> list[tf.Tensor]:
        """Returns diag(L^-T L^-1) of each factor, (k_l, n_l)."""
        diagonals = []
        for lower in prepared or self.prepare():
            eye = tf.eye(lower.shape[-1], batch_shape=lower.shape[:1], dtype=lower.dtype)
            diagonals.append(tf.reduce_sum(tf.linalg.triangular_solve(lower, eye) ** 2, axis=-2))
        return diagonals


@register_keras_serializable("pae_zoo")
class BlockPosterior(_Triangular):
    """Correlated weights within each layer, none between: Lambda_l = L L^T, theta_l = mean_l + L^-T noise.

    Factors are found in float64 by triangular solves only; no inverse is formed. See `WeightPosterior`.
    """

    structure = "block"

    def _make(self):
        self._afford(sum(size**2 for size in self.layout.sizes), "The blocks of the curvature")
        sizes = enumerate(self.layout.sizes)
        self.curvature = [self._weight(f"curvature_{index}", (size, size)) for index, size in sizes]

    def assign_curvature(self, curvature: Sequence[tf.Tensor]) -> None:
        shapes = [tuple(block.shape) for block in curvature]
        if shapes != [tuple(variable.shape) for variable in self.curvature]:
            raise UserError(f"The curvature needs a block (P_l, P_l) for each chosen layer, of sizes "
                            f"{self.layout.sizes}; received {shapes}.")
        finite(curvature, "a block posterior")
        for variable, block in zip(self.curvature, curvature):
            variable.assign(tf.cast(block, variable.dtype))

    def precision(self) -> Any:
        return [matrix[0] for matrix in super().precision()]

    def variances(self, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        return tf.concat([diagonal[0] for diagonal in self._inverse_diagonals(prepared)], axis=0)

    def spectrum(self) -> evidence.Spectrum:
        return evidence.Separate([np.linalg.eigvalsh(one.numpy().astype(np.float64)) for one in self.curvature])

    def _matrices(self):
        return [tf.convert_to_tensor(one)[None] for one in self.curvature]


@register_keras_serializable("pae_zoo")
class LastLayerPosterior(_Triangular):
    """The exact posterior of the last layer's weights, given all others.

    Args:
      layout, dtype: see `WeightPosterior`.
      form: of the curvature's matrices, see `LastLayer`: "shared", one for every output; "outputs", one for each;
        "full", one of all weights.
    """

    structure = "last_layer"

    @property
    def has_moments(self) -> bool:
        return self.form != FULL

    def __init__(self, layout: Source, form: str = FULL, **kwargs: Any) -> None:
        if form not in (SHARED, OUTPUTS, FULL):
            raise unknown("form", form, (SHARED, OUTPUTS, FULL))
        self.form = form
        super().__init__(layout, **{"layers": LAST, **kwargs})

    def _make(self):
        part = self._part
        if len(self.layout.chosen) != 1 or (self.form != FULL and part.form == matrix_form.NONE):
            raise UserError(f"A posterior of the last layer is over one layer, and over a dense one or a convolution "
                            f"unless form={FULL!r}; received {[one.name for one in self.layout.chosen]}.")
        shape = (1, part.size, part.size)
        if self.form != FULL:
            rows, outputs = matrix_form.matrix_shape(part.form, part.shapes)
            shape = (1 if self.form == SHARED else outputs, rows, rows)
        self._afford(shape[0] * shape[1] ** 2, "The last layer's curvature")
        self.curvature = self._weight("curvature", shape)

    @property
    def _part(self):
        return self.layout.chosen[0]

    def assign_curvature(self, curvature: LastLayer) -> None:
        if tuple(curvature.matrices.shape) != tuple(self.curvature.shape):
            raise UserError(f"The posterior of form {self.form!r} takes matrices of shape "
                            f"{tuple(self.curvature.shape)}; received {tuple(curvature.matrices.shape)}.")
        finite([curvature.matrices], "a posterior of the last layer")
        self.curvature.assign(tf.cast(curvature.matrices, self.curvature.dtype))

    def variances(self, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        (diagonal,) = self._inverse_diagonals(prepared)
        if self.form == FULL:
            return diagonal[0]
        rows, outputs = matrix_form.matrix_shape(self._part.form, self._part.shapes)
        matrix = tf.transpose(tf.broadcast_to(diagonal, (outputs, rows)))
        return matrix_form.to_flat(matrix[None], self._part.form, self._part.shapes)[0]

    def spectrum(self) -> evidence.Spectrum:
        values = np.linalg.eigvalsh(self.curvature.numpy().astype(np.float64)).reshape(-1)
        return evidence.Separate([np.tile(values, self._part.size // values.size)])

    def _matrices(self):
        return [tf.convert_to_tensor(self.curvature)]

    def _columns(self, flat):
        if self.form == FULL:
            return super()._columns(flat)
        matrices = tf.transpose(matrix_form.to_matrix(flat, self._part.form, self._part.shapes), (2, 1, 0))
        # (n_out, n_in, n): one solve for all where they share their matrix.
        if self.form == OUTPUTS:
            return matrices
        return tf.reshape(tf.transpose(matrices, (1, 0, 2)), (1, matrices.shape[1], -1))

    def _flat(self, columns):
        if self.form == FULL:
            return super()._flat(columns)
        if self.form == SHARED:
            rows, outputs = matrix_form.matrix_shape(self._part.form, self._part.shapes)
            columns = tf.transpose(tf.reshape(columns[0], (rows, outputs, -1)), (1, 0, 2))
        return matrix_form.to_flat(tf.transpose(columns, (2, 1, 0)), self._part.form, self._part.shapes)

    def moments(self, number: int, seen: tf.Tensor, prepared: list[tf.Tensor]) -> Optional[tuple]:
        if self.form == FULL:
            return None
        (lower,) = prepared
        columns = tf.broadcast_to(tf.transpose(seen), (*lower.shape[:2], tf.shape(seen)[0]))
        squares = tf.reduce_sum(tf.linalg.triangular_solve(lower, columns) ** 2, axis=1)
        outputs = matrix_form.matrix_shape(self._part.form, self._part.shapes)[1]
        return tf.transpose(tf.broadcast_to(squares, (outputs, tf.shape(seen)[0]))), None

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "form": self.form}


