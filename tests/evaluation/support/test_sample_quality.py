"""Quality of generated images: keys of the task, what other tasks may ask, preparation, what is missing."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import data, evaluation
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.context import to_unit
from pae_zoo.evaluation.metrics import frechet
from pae_zoo.evaluation.support import quality

AGAINST_RECONSTRUCTIONS = ["generation/frechet_r/samples", "generation/frechet_r/floor"]
DISTANCES = [f"generation/frechet/{kind}" for kind in quality.KINDS]
SHARES = [f"generation/{measure}" for measure in quality.MEASURES]


@pytest.fixture
def with_features(make_context, feature_file):
    """Returns make(...) -> context whose images have a feature network, with random weights."""

    def make(*args, event_shape=(8, 8, 1), **options):
        return make_context(*args, event_shape=event_shape, fid_weights=str(feature_file(event_shape)), **options)

    return make


def test_keys_and_figures_of_the_task(with_features, blobs):
    context = with_features()
    train = data.Split(blobs(90, (8, 8, 1), seed=2)[0])
    context.dataset = dataclasses.replace(context.dataset, train=train)
    results = evaluation.evaluate(context, ["generation"])
    assert all(results[key] >= 0 for key in [*DISTANCES, *SHARES, quality.NEAREST])
    assert all(results[f"generation/{measure}"] <= 1 for measure in ("precision", "recall", "coverage"))
    assert 0 < results["generation/frechet/floor"] < results["generation/frechet/samples"]
    assert results["generation/frechet/num_samples"] == results["generation/frechet/num_floor"] == 70
    assert results["generation/frechet/extractor"] == quality.reference(context).extractor.label
    assert results["generation/frechet/preparation"] == "rounded to 8 bits"
    assert {"frechet", "nearest_train"} <= {path.stem for path in context.figures}


def test_numbers_are_those_of_the_definition(with_features):
    context = with_features(frechet_samples=40)
    results = dict(quality.model_quality(context))
    reference = quality.reference(context)
    x = context.dataset.test.x[reference.chosen]
    assert len(x) == 40
    decoded = np.rint(255 * context.reconstruct(x)) / 255
    by_hand = [frechet.moments(reference.extractor.features(y.astype(np.float32))) for y in (to_unit(x), decoded)]
    assert results["generation/frechet/reconstructions"] == pytest.approx(frechet.distance(*by_hand), rel=1e-5)
    # Reconstructions are no distance from themselves, test images as far as they are from the test images.
    assert reference.frechet_r(reference.reconstructions) < 1e-9
    assert reference.frechet_r(reference.features) == pytest.approx(frechet.distance(*by_hand), rel=1e-5)
    assert results["generation/frechet_r/samples"] > results["generation/frechet_r/floor"] > 0


def test_a_test_split_that_is_the_training_split(with_features, capsys):
    results = dict(quality.model_quality(with_features()))
    assert results["generation/frechet/floor"] < 1e-9 and results[quality.NEAREST] == "unsupported"
    assert "The test images are training images too." in capsys.readouterr().err


def test_the_nearest_training_image_of_a_copy_is_itself(with_features, blobs):
    """A model that gives training images back: its samples have no distance to them."""
    context = with_features()
    train = blobs(90, (8, 8, 1), seed=2)[0]
    context.dataset = dataclasses.replace(context.dataset, train=data.Split(train))
    context.model.sample = lambda num, seed: tf.constant(to_unit(train)[:num])
    assert dict(quality.model_quality(context))[quality.NEAREST] == pytest.approx(0.0, abs=1e-4)


def test_the_same_seed_gives_the_same_numbers(with_features):
    first, second = (dict(quality.model_quality(with_features())) for _ in range(2))
    assert first == second


def test_a_model_without_samples_has_the_other_distances(with_features, plain_autoencoder, capsys):
    results = dict(quality.model_quality(with_features(plain_autoencoder)))
    for key in [DISTANCES[0], AGAINST_RECONSTRUCTIONS[0], *SHARES, quality.NEAREST]:
        assert results[key] == "unsupported", key
    assert all(results[key] >= 0 for key in DISTANCES[1:])
    assert "A plain autoencoder has no density." in capsys.readouterr().err


def test_data_without_a_network_are_told_what_to_do(make_context, capsys):
    context = make_context()
    results = dict(quality.model_quality(context))
    assert set(results) == {*DISTANCES, *AGAINST_RECONSTRUCTIONS, *SHARES, quality.NEAREST}
    assert set(results.values()) == {"unsupported"}
    told = capsys.readouterr().err
    assert "tools/train_features.py" in told and "--fid_weights" in told and told.count("\n") == 1
    with pytest.raises(NotImplementedError, match="No feature network"):
        quality.frechet_to_test(context, np.zeros((70, 8, 8, 1), np.float32))
    keys = dict(quality.sample_quality(context, "density/gmm", np.zeros((70, 8, 8, 1), np.float32)))
    assert keys["density/gmm/frechet"] == "unsupported"


def test_too_few_test_data_are_told(with_features):
    with pytest.raises(NotImplementedError, match="need more than 5 test images; there are 4"):
        quality.reference(with_features(num=4))


def test_what_other_tasks_ask(with_features, monkeypatch):
    context = with_features()
    x = context.dataset.test.x
    assert quality.num_images(context) == len(x) == 70
    assert quality.frechet_to_test(context, x) < 1e-9
    assert quality.frechet_to_test(context, iter([x[:30], x[30:]])) < 1e-9
    # The features of the test data are there: the network sees the new images only.
    reference = quality.reference(context)
    seen = []
    apply = reference.extractor.apply
    object.__setattr__(reference.extractor, "apply", lambda x: seen.append(len(x)) or apply(x))
    results = dict(quality.sample_quality(context, "density/gmm", to_unit(x[:50])))
    # Those of reconstructions are computed once, for the distance to them.
    assert seen == [50, 32, 32, 6]
    assert list(results) == [f"density/gmm/{name}" for name in ("frechet", "frechet_r", *quality.MEASURES)]
    assert results["density/gmm/precision"] == 1.0 and results["density/gmm/frechet"] > 0


def test_images_that_are_not_finite_give_nan(with_features):
    context = with_features()
    images = to_unit(context.dataset.test.x)
    images[3, 0, 0, 0] = np.nan
    results = dict(quality.sample_quality(context, "x", images))
    assert all(np.isnan(value) for value in results.values())
    assert quality.frechet_to_test(context, images) != quality.frechet_to_test(context, images)


def test_preparation(with_features):
    images = np.random.default_rng(0).uniform(0.2, 0.7, (5, 8, 8, 1)).astype(np.float32)
    kept = images.copy()
    plain = quality.reference(with_features()).prepare(images)
    np.testing.assert_allclose(255 * plain, np.rint(255 * images), atol=1e-4)
    context = with_features(fid_min_max=True)
    stretched = quality.reference(context).prepare(images)
    np.testing.assert_array_equal(stretched.min(axis=(1, 2, 3)), 0)
    np.testing.assert_allclose(stretched.max(axis=(1, 2, 3)), 1, atol=1e-6)
    assert "each image stretched to [0, 1]" in quality.reference(context).preparation
    np.testing.assert_array_equal(images, kept)
    constant = quality.reference(context).prepare(np.full((1, 8, 8, 1), 0.3, np.float32))
    assert np.isfinite(constant).all()


def test_a_missing_file_is_an_error(make_context):
    for name in ("none.npz", "none.pb", "none.h5"):
        with pytest.raises(UserError, match=f"{name} does not exist"):
            quality.reference(make_context(fid_weights=name))
