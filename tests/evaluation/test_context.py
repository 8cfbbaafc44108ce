"""The loop over padded batches, seeds, figures and tables."""

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.evaluation.context import Projection, to_unit
from pae_zoo.plotting import figures


def test_padded_batches_have_one_size_and_lose_nothing(make_context):
    context = make_context(num=70)
    found = list(context.batches(context.dataset.test.x))
    assert [batch.shape for batch, _ in found] == [(32, 8, 8, 1)] * 3
    assert [count for _, count in found] == [32, 32, 6]
    rows = np.concatenate([batch[:count] for batch, count in found])
    np.testing.assert_array_equal(rows, to_unit(context.dataset.test.x))


@pytest.mark.parametrize("jit_compile", [False, True])
def test_map_batches_cuts_results_and_compiles_once(make_context, jit_compile):
    context = make_context(num=70, jit_compile=jit_compile)
    traces = []

    def brightness(x, seed):
        traces.append(1)
        return {"sum": tf.reduce_sum(x, axis=[1, 2, 3]), "pair": (x[:, 0, 0, 0], x)}

    x = context.dataset.test.x
    found = context.map_batches(brightness, x, "brightness")
    context.map_batches(brightness, x[:5], "brightness")
    assert len(traces) == 1
    np.testing.assert_allclose(found["sum"], to_unit(x).sum(axis=(1, 2, 3)), rtol=1e-5)
    np.testing.assert_array_equal(found["pair"][1], to_unit(x))


def test_each_batch_has_its_own_seed_that_repeats(make_context):
    context = make_context(num=70)

    def noise(x, seed):
        return seeds.normal((x.shape[0],), seed)

    x = context.dataset.test.x
    first = context.map_batches(noise, x, "purpose")
    assert len(np.unique(first)) == len(x)
    np.testing.assert_array_equal(first, context.map_batches(noise, x, "purpose"))
    assert not np.array_equal(first, context.map_batches(noise, x, "another purpose"))


def test_a_model_that_draws_networks_has_one_seed_for_all_data(make_context, monkeypatch):
    monkeypatch.setattr("pae_zoo.evaluation.context.SHARED_ROWS", 32)
    context = make_context(num=70)

    def noise(x, seed):
        return seeds.normal((x.shape[0],), seed)

    x = context.dataset.test.x
    assert context.network_seed is None
    context.model.draws_are_shared = True
    first, other = context.map_batches(noise, x, "purpose"), context.map_batches(noise, x, "another purpose")
    np.testing.assert_array_equal(first[:32], first[32:64])
    np.testing.assert_array_equal(first, other)
    np.testing.assert_array_equal(context.network_seed, context.seed_for("weights"))


def test_many_data_share_the_drawing_of_networks(make_context):
    context = make_context(num=70)
    assert context.rows_at_once(70) == 32
    context.model.draws_are_shared = True
    assert context.rows_at_once(70) == 1000 and context.rows_at_once(20) == 32
    traces = []

    def total(x, seed):
        traces.append(x.shape[0])
        return tf.reduce_sum(x, axis=[1, 2, 3])

    x = context.dataset.test.x
    np.testing.assert_allclose(context.map_batches(total, x, "sum"), to_unit(x).sum(axis=(1, 2, 3)), rtol=1e-5)
    assert traces == [1000]


def test_a_figure_is_saved_whole_and_its_path_recorded(make_context):
    context = make_context()
    context.figure("map", figures.heatmap(np.ones((4, 4)), "title", "label"))
    assert context.figures == [context.run.figures / "map.png"]
    assert [path.name for path in context.run.figures.iterdir()] == ["map.png"]


def test_a_failed_figure_leaves_no_file(make_context):
    context = make_context()

    class Broken:
        def savefig(self, path, **kwargs):
            raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        context.figure("map", Broken())
    assert not (context.run.figures / "map.png").exists() and not context.figures


def test_table_is_csv(make_context):
    context = make_context()
    context.table("values.csv", {"index": range(2), "value": np.array([0.5, np.inf])})
    assert (context.run.workdir / "values.csv").read_text() == "index,value\n0,0.5\n1,inf\n"


def test_codes_of_a_posterior_without_a_mean_are_seeded_draws(make_context, linear_gaussian, capsys):
    class Implicit:
        def __init__(self, posterior):
            self.sample = posterior.sample

        def mean(self):
            raise NotImplementedError("No mean in closed form.")

    class Flow(linear_gaussian):
        def encode(self, x, seed=None):
            mean = super().encode(x).mean()
            return Implicit(_Noisy(mean))

    class _Noisy:
        def __init__(self, mean):
            self.mean = mean

        def sample(self, seed):
            return self.mean + seeds.normal(tf.shape(self.mean), seed)

    context = make_context(Flow)
    codes, variances = context.encode(context.dataset.test.x, "codes")
    again, _ = context.encode(context.dataset.test.x, "codes")
    np.testing.assert_array_equal(codes, again)
    assert codes.shape == (70, 2) and not variances.any()
    assert "No mean in closed form." in capsys.readouterr().err


def test_projection():
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(500, 2)) * (3.0, 1.0)
    basis = np.linalg.qr(generator.normal(size=(6, 2)))[0]
    project = Projection(plane @ basis.T + 5.0)
    coordinates = project(plane @ basis.T + 5.0)
    assert project.shares.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(np.abs(coordinates - plane @ np.diag(np.sign(coordinates[0] / plane[0]))), 0, atol=0.5)
    np.testing.assert_array_equal(Projection(plane)(plane), plane)
    assert Projection(plane[:, :1])(plane[:, :1]).shape == (500, 1)


def test_projection_of_fewer_vectors_than_dimensions():
    """By the vectors' products the same picture, and no matrix of d x d: 100,000 dimensions would take 75 GiB."""
    vectors = np.random.default_rng(1).normal(size=(12, 40)) * np.linspace(1, 3, 40)
    variances, axes = np.linalg.eigh(np.cov(vectors.T))
    project = Projection(vectors)
    expected = (vectors - vectors.mean(axis=0)) @ axes[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(project(vectors)), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(project.shares, variances[[-1, -2]] / variances.sum())
    for wide in (np.zeros((3, 100_000)), np.ones((1, 7)), np.arange(200_000.0).reshape(2, -1)):
        assert np.isfinite(Projection(wide)(wide)).all() and Projection(wide)(wide).shape == (len(wide), 2)


def test_draws_that_a_model_does_not_have_are_not_counted(make_context):
    context = make_context(num=4)
    assert context.num_draws == context.num_networks == context.hparams.test_samples
    context.model.num_draws, context.model.num_networks = (lambda num: 0), (lambda num: 5)
    assert (context.num_draws, context.num_networks) == (0, 5)
