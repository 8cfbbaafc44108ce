"""Samples, interpolations, latent map and the codes for the projector."""

import numpy as np
import pytest

from pae_zoo.evaluation.tasks import generation


def test_images_with_two_latents(make_context):
    context = make_context()
    results = dict(generation.run(context))
    codes, variances = context.test_codes
    expected = np.sqrt(codes.var(axis=0) + variances.mean(axis=0)).mean()
    assert results["generation/latent_std_mean"] == pytest.approx(expected, rel=1e-5)
    assert results["generation/prior_std_mean"] == pytest.approx(1.0, abs=0.02)
    assert results["generation/active_units"] == (codes.var(axis=0) > 0.01).sum()
    assert "generation/latent_map_variance" not in results
    assert {path.stem for path in context.figures} == {"samples", "latent_map", "interpolations", "latent_grid"}


def test_images_with_many_latents_are_projected(make_context):
    context = make_context(event_shape=(6, 9, 3), model_options={"latent_dim": 5})
    results = dict(generation.run(context))
    assert 0 < results["generation/latent_map_variance"] <= 1
    assert {path.stem for path in context.figures} == {"samples", "latent_map", "interpolations"}


def test_vectors(make_context):
    context = make_context(event_shape=(4,), model_options={"latent_dim": 1})
    assert dict(generation.run(context))["generation/sample_std"] > 0
    assert {path.stem for path in context.figures} == {"samples", "latent_map"}


def test_windows_of_a_series_are_lines(make_context):
    context = make_context(event_shape=(4, 2))
    found = dict(generation.draw_samples(context))
    assert found["generation/sample_std"] > 0 and {path.stem for path in context.figures} == {"samples"}


@pytest.mark.parametrize("num", [1, 2, 5, 40])
def test_pairs_are_of_different_classes_where_possible(make_context, num):
    context = make_context(num=num)
    labels = np.arange(num) % 2
    starts, ends = generation.pairs(context, labels, num)
    assert 1 <= len(starts) == len(ends) <= 8
    if num == 40:
        assert (labels[starts] != labels[ends]).all() and len({*starts, *ends}) == 16


def test_projector_files_are_what_tensorboard_reads(make_context):
    from google.protobuf import text_format
    from tensorboard.plugins.projector import projector_config_pb2

    context = make_context()
    list(generation.run(context))
    folder = context.run.workdir / "tensorboard" / "evaluation"
    config = projector_config_pb2.ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config)
    (embedding,) = config.embeddings
    assert np.loadtxt(folder / embedding.tensor_path, delimiter="\t").shape == (70, 2)
    assert len((folder / embedding.metadata_path).read_text().split()) == 70
    assert list(embedding.sprite.single_image_dim) == [8, 8]
    assert (folder / embedding.sprite.image_path).exists()


def test_interpolations_in_the_base_space_where_it_is_not_the_latent_space(make_context, linear_gaussian):
    class Doubled(linear_gaussian):
        """Latents are twice the prior's variable."""

        def latent_from_base(self, u):
            return 2.0 * u

        def base_from_latent(self, z):
            return 0.5 * z

    context = make_context(Doubled)
    dict(generation.run(context))
    assert {"interpolations", "interpolations_base"} <= {path.stem for path in context.figures}


def test_lines_hold_both_ends():
    first, last = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    points = generation.lines(first, last).reshape(2, generation.NUM_FRAMES, 3)
    np.testing.assert_array_equal(points[:, 0], first)
    np.testing.assert_array_equal(points[:, -1], last)
    np.testing.assert_allclose(np.diff(points, axis=1), 1.0 / (generation.NUM_FRAMES - 1), rtol=1e-6)
