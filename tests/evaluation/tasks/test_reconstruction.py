"""Mean squared error in the units of x."""

import numpy as np
import pytest

from pae_zoo.evaluation.context import to_unit
from pae_zoo.evaluation.tasks import reconstruction


@pytest.mark.parametrize("event_shape", [(8, 8, 1), (6, 9, 3), (2,), (5,), (4, 2)])
def test_mse_is_the_mean_over_data_and_pixels(make_context, event_shape):
    context = make_context(event_shape=event_shape)
    results = dict(reconstruction.run(context))
    x = to_unit(context.dataset.test.x)
    errors = (x - context.model(x).numpy()) ** 2
    assert results["test/mse"] == pytest.approx(errors.mean(), rel=1e-5)
    means = errors.reshape(len(x), -1).mean(axis=1)
    assert results["test/mse_stderr"] == pytest.approx(means.std(ddof=1) / np.sqrt(len(x)), rel=1e-4)
    assert results["test/mse_pixel_max"] == pytest.approx(errors.mean(axis=0).max(), rel=1e-5)
    names = {path.stem for path in context.figures}
    assert names == ({"reconstructions", "residual_map"} if len(event_shape) == 3 else {"reconstructions"})


def test_standard_error_of_one_value_is_not_a_number():
    assert np.isnan(reconstruction.standard_error(np.array([1.0])))
