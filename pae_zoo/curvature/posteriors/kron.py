"""Posterior with Kronecker-factored precision, exact in the eigenbasis of the factors."""

from typing import Any, Callable, Optional, Sequence

import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core.errors import UserError
from pae_zoo.curvature.matrices.kron import Kron, KronDiagonal
from pae_zoo.curvature.network import matrix_form
from pae_zoo.curvature.network.layout import Part
from pae_zoo.curvature.posteriors import evidence
from pae_zoo.curvature.posteriors.base import WeightPosterior, finite


@register_keras_serializable("pae_zoo")
class KronPosterior(WeightPosterior):
    """Lambda_l = kappa A (x) B / (count sigma^2) + gamma_l I, A and B the factors of `Kron`.

    With A = V_a a V_a^T and B = V_b b V_b^T, V = V_a (x) V_b, it is V diag(kappa a_i b_j / (count sigma^2) + gamma_l)
    V^T: no root of gamma is shared out among the factors. Weights that make no matrix are independent. The eigenvectors
    and eigenvalues are kept, not the factors. See `WeightPosterior` for the arguments. Ritter, Botev & Barber, A
    scalable Laplace approximation for neural networks, ICLR 2018; Daxberger et al., arXiv 2106.14806.
    """

    structure = "kron"
    has_moments = True

    def _make(self):
        self.values, self.left, self.right = [], {}, {}
        for index, part in enumerate(self.layout.chosen):
            shape = self._shape(part)
            self.values.append(self._weight(f"values_{index}", shape))
            if len(shape) == 2:
                # Of a curvature of 0 any basis is one.
                self.left[str(index)] = self._weight(f"input_vectors_{index}", (shape[0],) * 2, "identity")
                self.right[str(index)] = self._weight(f"output_vectors_{index}", (shape[1],) * 2, "identity")

    def _shape(self, part: Part) -> tuple[int, ...]:
        return (part.size,) if part.form == matrix_form.NONE else matrix_form.matrix_shape(part.form, part.shapes)

    def assign_curvature(self, curvature: Sequence) -> None:
        shapes = [tuple(value.shape) for value in self.values]
        received = [(one.input_factor.shape[0], one.output_factor.shape[0]) if isinstance(one, Kron) else
                    tuple(one.diagonal.shape) if isinstance(one, KronDiagonal) else type(one).__name__
                    for one in curvature]
        if received != shapes:
            raise UserError(f"The curvature needs factors for each chosen layer, of sizes {shapes}; received "
                            f"{received}.")
        finite([part for one in curvature for part in one], "a Kronecker posterior")
        for index, one in enumerate(curvature):
            if isinstance(one, KronDiagonal):
                self.values[index].assign(tf.cast(tf.maximum(one.diagonal, 0.0), self.mean.dtype))
                continue
            (a, left), (b, right) = _eigen(one.input_factor), _eigen(one.output_factor)
            count = tf.cast(one.count, tf.float64)
            self.values[index].assign(tf.cast(tf.math.divide_no_nan(a[:, None] * b, count), self.mean.dtype))
            self.left[str(index)].assign(tf.cast(left, self.mean.dtype))
            self.right[str(index)].assign(tf.cast(right, self.mean.dtype))

    def prepare(self) -> list[tf.Tensor]:
        return [tf.math.rsqrt(one) for one in self._precisions()]

    def root(self, noise: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        prepared = prepared or self.prepare()
        pieces = enumerate(self._split(noise))
        return tf.concat([self._rotated(number, one, prepared[number], _root) for number, one in pieces], axis=-1)

    def whiten(self, rows: tf.Tensor, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        prepared = prepared or self.prepare()
        return tf.concat([self.whiten_part(number, one, prepared) for number, one in enumerate(self._split(rows))], -1)

    def whiten_part(self, number: int, rows: tf.Tensor, prepared: list[tf.Tensor]) -> tf.Tensor:
        return self._rotated(number, rows, prepared[number], _whiten)

    def moments(self, number: int, seen: tf.Tensor, prepared: list[tf.Tensor]) -> Optional[tuple]:
        left, right = self._vectors(number)
        return tf.matmul(tf.matmul(seen, left) ** 2, prepared[number] ** 2), right

    def variances(self, prepared: Optional[list[tf.Tensor]] = None) -> tf.Tensor:
        found = []
        for index, (part, one) in enumerate(zip(self.layout.chosen, self._precisions())):
            variance = 1.0 / one
            if len(one.shape) == 2:
                left, right = self._vectors(index)
                variance = matrix_form.to_flat((left**2 @ variance @ _t(right**2))[None], part.form, part.shapes)[0]
            found.append(variance)
        return tf.concat(found, axis=0)

    def precision(self) -> Any:
        self._afford(sum(size**2 for size in self.layout.sizes), "Explicit precision matrices")
        found = []
        for index, (part, one) in enumerate(zip(self.layout.chosen, self._precisions())):
            if len(one.shape) == 2:
                eye = matrix_form.to_matrix(tf.eye(part.size, dtype=one.dtype), part.form, part.shapes)
                left, right = self._vectors(index)
                rows = left @ (one * (_t(left) @ eye @ right)) @ _t(right)
                found.append(matrix_form.to_flat(rows, part.form, part.shapes))
            else:
                found.append(tf.linalg.diag(one))
        return found

    def spectrum(self) -> evidence.Spectrum:
        return evidence.Separate([value.numpy() for value in self.values])

    def _precisions(self) -> list[tf.Tensor]:
        return [self.scale() * tf.convert_to_tensor(one) + prior for one, prior in zip(self.values, self.priors())]

    def _vectors(self, index: int) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.convert_to_tensor(self.left[str(index)]), tf.convert_to_tensor(self.right[str(index)])

    def _rotated(self, number: int, flat: tf.Tensor, std: tf.Tensor, function: Callable) -> tf.Tensor:
        """Returns function(matrices, std, left, right) of weights (n, P_l) of one layer, flat again."""
        if len(std.shape) == 1:
            return std * flat
        part = self.layout.chosen[number]
        matrix = function(matrix_form.to_matrix(flat, part.form, part.shapes), std, *self._vectors(number))
        return matrix_form.to_flat(matrix, part.form, part.shapes)

    def _faults(self, state: dict[str, np.ndarray]) -> Optional[str]:
        negative = any((value < 0).any() for name, value in state.items() if name.startswith("values_"))
        return "its eigenvalues are negative" if negative else None


def _eigen(matrix: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns eigenvalues, negative ones as 0, and eigenvectors of a symmetric matrix, in float64."""
    matrix = tf.cast(matrix, tf.float64)
    values, vectors = tf.linalg.eigh(0.5 * (matrix + _t(matrix)))
    return tf.maximum(values, 0.0), vectors


def _root(matrix, std, left, right):
    return left @ (std * matrix) @ _t(right)


def _whiten(matrix, std, left, right):
    return std * (_t(left) @ matrix @ right)


def _t(matrix: tf.Tensor) -> tf.Tensor:
    return tf.linalg.matrix_transpose(matrix)
