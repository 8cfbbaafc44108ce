"""Densities of kernels: against SciPy's multivariate t."""

import keras
import numpy as np
import pytest
from scipy import stats

from pae_zoo.core.errors import UserError
from pae_zoo.densities.kernels import DOF, KernelDensity, LocalMixture, typical_distance


def mean_of_t(x, rows, matrices):
    logs = [stats.multivariate_t(row, matrix, DOF).logpdf(x) for row, matrix in zip(rows, matrices)]
    return np.logaddexp.reduce(logs, axis=0) - np.log(len(rows))


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(30, 3)) @ np.diag([1.0, 0.5, 2.0])


def test_a_kernel_density_is_the_mean_of_t(rows):
    density = KernelDensity(3, dtype="float64")
    density.fit(rows)
    new = np.random.default_rng(1).normal(size=(7, 3)) * 3
    for factor in (1.0, 0.3):
        width = factor * typical_distance(rows)
        expected = mean_of_t(new, rows, [width**2 * np.eye(3)] * len(rows))
        np.testing.assert_allclose(density.log_probs(new, [factor])[:, 0], expected, rtol=1e-9)
    np.testing.assert_allclose(typical_distance(rows), np.median([
        np.sqrt(np.mean(np.sort(np.sum((row - rows) ** 2, axis=1))[1:6]) + 3e-4) for row in rows]))  # fmt: skip


@pytest.mark.parametrize("leading", [3, 2])
def test_a_local_mixture_is_the_mean_of_t_of_the_shape_of_neighbours(rows, leading):
    density = LocalMixture(3, num_leading=leading, dtype="float64")
    density.fit(rows, rows[:5], neighbours=6)
    matrices = []
    for row in rows[:5]:
        away = rows[np.argsort(np.sum((rows - row) ** 2, axis=1))[1:7]] - row
        second = away[:, :leading].T @ away[:, :leading] / 6
        matrix = np.zeros((3, 3))
        matrix[:leading, :leading] = 0.7 * second + (0.3 * np.trace(second) / leading + 1e-4) * np.eye(leading)
        matrix[leading:, leading:] = np.mean(away[:, leading:] ** 2) + 1e-4 if leading < 3 else 0
        matrices.append(matrix)
    new = np.random.default_rng(1).normal(size=(7, 3)) * 3
    np.testing.assert_allclose(density.log_prob(new), mean_of_t(new, rows[:5], matrices), rtol=1e-9)
    expected = mean_of_t(new, rows[:5], 0.25 * np.stack(matrices))
    np.testing.assert_allclose(density.log_probs(new, [1.0, 0.5])[:, 1], expected, rtol=1e-9)


@pytest.mark.parametrize("kind", [KernelDensity, LocalMixture])
def test_rows_do_not_depend_on_each_other_nor_on_precision(rows, kind, tmp_path):
    one, other = kind(3), kind(3, dtype="float64")
    for density in (one, other):
        density.fit(rows)
    new = rows[:4] + 0.1
    np.testing.assert_allclose(one.log_prob(new.astype(np.float32)), other.log_prob(new), atol=1e-4)
    np.testing.assert_allclose(other.log_prob(new)[2:3], other.log_prob(new[2:3]))
    broken = np.where(np.arange(4)[:, None] == 1, np.nan, new)
    assert np.isnan(other.log_prob(broken)).tolist() == [False, True, False, False]
    keras.Sequential([keras.Input((3,)), one]).save(tmp_path / "density.keras")
    loaded = keras.saving.load_model(tmp_path / "density.keras")
    np.testing.assert_array_equal(loaded(new.astype(np.float32)), one.log_prob(new.astype(np.float32)))


def test_what_is_not_fitted_or_has_no_dimension_is_refused():
    with pytest.raises(UserError, match="not fitted"):
        KernelDensity(2).log_prob([[0.0, 0.0]])
    with pytest.raises(UserError, match="num_dims=0"):
        LocalMixture(0)
    density = KernelDensity(2)
    density.fit(np.zeros((3, 2)))
    assert np.isfinite(density.log_prob(np.zeros((1, 2), np.float32))).all()
    with pytest.raises(UserError, match="has 3 rows; received 2"):
        density.fit(np.zeros((2, 2)))
