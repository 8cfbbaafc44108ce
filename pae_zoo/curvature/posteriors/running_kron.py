"""A Kronecker-factored posterior whose factors move while a network trains."""

from typing import Any, Sequence, Union

import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.core import cholesky, seeds
from pae_zoo.curvature.matrices.kron import Kron, KronDiagonal
from pae_zoo.curvature.network import matrix_form
from pae_zoo.curvature.posteriors.kron import KronPosterior


@register_keras_serializable("pae_zoo")
class RunningKron(KronPosterior):
    """`KronPosterior` with the running factors A (n_in, n_in) and B (n_out, n_out) of each layer, G_l = A (x) B.

    While they move, draws come from the precision (A + p I) (x) (B + (gamma / p) I), p = (gamma tr A n_out / (tr B
    n_in))^(1/2), whose product holds the prior and two terms more (Martens & Grosse, arXiv 1503.05671, section 6.3):
    two products with inverse triangular factors a layer, no eigenvectors. `settle` sets eigenvectors and eigenvalues to
    those of the factors; what else a posterior does is done with these, and without the two terms. See `KronPosterior`
    for the arguments.
    """

    def _make(self) -> None:
        super()._make()
        self.factors, self.roots = {}, {}
        for index in self.left:
            sizes = self.values[int(index)].shape
            pairs = list(zip(("input", "output"), sizes))
            self.factors[index] = [self._weight(f"{side}_factor_{index}", (size, size)) for side, size in pairs]
            self.roots[index] = [self._weight(f"{side}_root_{index}", (size, size), "identity") for side, size in pairs]
        # log |Lambda| and tr Lambda^-1 of each layer, as the roots have them.
        self.sums = self._weight("sums", (len(self.values), 2))

    def _running(self) -> list[list[Any]]:
        """Returns what moves, by layer: both factors, or the diagonal of weights that are no matrix."""
        return [self.factors.get(str(index), [value]) for index, value in enumerate(self.values)]

    def factors_now(self) -> list[tf.Tensor]:
        """Returns the factors of all layers, in order."""
        return [tf.convert_to_tensor(one) for layer in self._running() for one in layer]

    def moved(self, found: Sequence[Union[Kron, KronDiagonal]], share: tf.Tensor, scale: tf.Tensor) -> list[tf.Tensor]:
        """Returns the factors taken by a share of the way to those of `scale` times a curvature that `ggn` found."""
        goals = []
        for one in found:
            if isinstance(one, KronDiagonal):
                goals.append(scale * one.diagonal)
            else:
                goals += [one.input_factor / one.count, scale * one.output_factor]
        return [old + share * (tf.cast(goal, old.dtype) - old) for old, goal in zip(self.factors_now(), goals)]

    def assign_factors(self, values: Sequence[tf.Tensor]) -> None:
        """Sets the factors of all layers, in the order of `factors_now`; draws go by those of the last `factorise`."""
        variables = [one for layer in self._running() for one in layer]
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)

    def rescale(self, factor: tf.Tensor) -> None:
        """Multiplies the curvature by a number."""
        # The last one of each layer has the scale.
        values = [tf.convert_to_tensor(one) * (factor if one is layer[-1] else 1.0)
                  for layer in self._running() for one in layer]
        self.assign_factors(values)
        self.factorise()

    def factorise(self, now: Union[bool, tf.Tensor] = True) -> None:
        """Sets the roots to those of the factors as they are now, where `now` is true."""
        variables = [*(root for pair in self.roots.values() for root in pair), self.sums]
        old = [tf.convert_to_tensor(variable) for variable in variables]
        for variable, value in zip(variables, tf.cond(tf.convert_to_tensor(now), self._roots, lambda: old)):
            variable.assign(value)

    def _roots(self) -> list[tf.Tensor]:
        """Returns inverse Cholesky factors of the damped factors, and the sums."""
        found, sums = [], []
        for index, (value, prior) in enumerate(zip(self.values, self.priors())):
            if str(index) not in self.factors:
                precision = self.scale() * tf.convert_to_tensor(value) + prior
                sums.append([tf.reduce_sum(tf.math.log(precision)), tf.reduce_sum(1.0 / precision)])
                continue
            left, right = (tf.convert_to_tensor(one) for one in self.factors[str(index)])
            right = self.scale() * right
            means = [tf.linalg.trace(one) / one.shape[0] for one in (left, right)]
            # Where there is no curvature yet, the prior is all of it.
            share = tf.sqrt(prior * tf.math.divide_no_nan(*means))
            share = tf.where(share > 0, share, tf.sqrt(prior))
            log_det, trace = tf.zeros_like(prior), tf.ones_like(prior)
            for one, damping, other in ((left, share, right.shape[0]), (right, prior / share, left.shape[0])):
                eye = tf.eye(one.shape[0], dtype=one.dtype)
                lower = cholesky.guarded(one + damping * eye, cholesky.in_blocks)[0]
                log_det += 2.0 * other * tf.reduce_sum(tf.math.log(tf.linalg.diag_part(lower)))
                inverse = tf.linalg.triangular_solve(lower, eye)
                trace *= tf.reduce_sum(inverse**2)
                found.append(inverse)
            sums.append([log_det, trace])
        return [*found, tf.stack([tf.stack(pair) for pair in sums])]

    def deviation(self, seed: seeds.Seed) -> list[tf.Tensor]:
        """Returns one draw of the weights about their mean, flat, (P_l,) of each chosen layer."""
        noise = seeds.normal((1, self.layout.num_chosen), seed, tf.as_dtype(self.mean.dtype), None)
        found = []
        for index, (part, one) in enumerate(zip(self.layout.chosen, self._split(noise))):
            if str(index) in self.factors:
                left, right = (tf.convert_to_tensor(root) for root in self.roots[str(index)])
                matrix = matrix_form.to_matrix(one, part.form, part.shapes)[0]
                matrix = cholesky.between(left, matrix, right)
                found.append(matrix_form.to_flat(matrix[None], part.form, part.shapes)[0])
            else:
                found.append(one[0] * tf.math.rsqrt(self._precisions()[index]))
        return found

    def settle(self) -> None:
        """Sets eigenvectors and eigenvalues to those of the factors as they are now."""
        found: list[Any] = []
        for index, value in enumerate(self.values):
            if str(index) in self.factors:
                left, right = (tf.convert_to_tensor(one) for one in self.factors[str(index)])
                found.append(Kron(left, right, tf.ones((), left.dtype)))
            else:
                found.append(KronDiagonal(tf.convert_to_tensor(value)))
        self.assign_curvature(found)
