"""The tasks calibration, rejection and latent_grid on a linear model with drawn networks, against numbers by hand."""

import csv
import dataclasses

import numpy as np
import pytest
from battery import EVENT_SHAPE, build
from scipy import stats

from pae_zoo import curvature, evaluation
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.metrics import calibration
from pae_zoo.evaluation.tasks import latent_grid
from pae_zoo.experiment import record

S = 6


def rows(context, name):
    with open(context.run.workdir / name, newline="") as file:
        return list(csv.DictReader(file))


def column(table, name):
    return np.array([float(row[name]) for row in table])


@pytest.fixture
def drawn(make_context, drawn_networks):
    """Returns make(**options) -> context of the model with drawn networks."""

    def make(**options):
        return make_context(drawn_networks, **{**dict(test_samples=S), **options})

    return make


def test_calibration_is_that_of_the_predictive(drawn):
    context = drawn()
    found = evaluation.evaluate(context, ["calibration"])
    x = context.dataset.test.x.astype(np.float32) / 255
    # One seed for all batches: the whole set at once meets the same networks.
    moments = {k: v.numpy() for k, v in context.model.predictive(x, S, context.network_seed).items()}
    error, epistemic = x - moments["mean"], moments["epistemic_variance"]
    sse, output = (error**2).sum(axis=(1, 2, 3)), np.sqrt(epistemic).sum(axis=(1, 2, 3))
    latent = np.sqrt(moments["latent_variance"]).sum(axis=1)
    variance = epistemic + 0.3**2
    assert found["calibration/sse"] == pytest.approx(sse.mean(), rel=1e-4)
    assert found["calibration/mean_sse"] == pytest.approx((sse + epistemic.sum(axis=(1, 2, 3))).mean(), rel=1e-4)
    assert found["calibration/noise_std"] == pytest.approx(0.3, rel=1e-5)
    assert found["calibration/epistemic_std"] == pytest.approx(np.sqrt(epistemic.mean()), rel=1e-4)
    for name, score in (("output", output), ("latent", latent)):
        assert found[f"calibration/{name}/mean"] == pytest.approx(score.mean(), rel=1e-4)
        assert found[f"calibration/{name}/spearman"] == pytest.approx(stats.spearmanr(score, sse).statistic, abs=1e-3)
        worst = np.argsort(score)[-7:]
        assert found[f"calibration/{name}/top_decile_ratio"] == pytest.approx(sse[worst].mean() / sse.mean(), rel=1e-3)
    for level in (0.5, 0.9):
        limit = stats.norm.ppf(0.5 + level / 2)
        for suffix, part in (("", variance), ("_epistemic", epistemic)):
            share = (np.abs(error) <= limit * np.sqrt(part)).mean()
            assert found[f"calibration/coverage{100 * level:.0f}{suffix}"] == pytest.approx(share, abs=1e-3)
    log_prob = context.model.predictive_log_prob(x, S, context.network_seed).numpy()
    assert found["calibration/log_prob"] == pytest.approx(log_prob.mean(), rel=1e-4)
    assert found["calibration/nll_bits_per_dim"] == pytest.approx(-log_prob.mean() / 64 / np.log(2), rel=1e-4)
    table = rows(context, "calibration.csv")
    np.testing.assert_allclose(column(table, "output"), output, rtol=1e-3)
    bins = rows(context, "calibration_bins.csv")
    deciles = [row for row in bins if row["uncertainty"] == "output" and row["bins"] == "count"]
    assert len(deciles) == 10 and sum(int(row["count"]) for row in deciles) == 70
    assert {path.stem for path in context.figures} == {"calibration_errors", "calibration_reliability"}


def test_some_of_the_test_data_are_predicted_as_among_all(drawn):
    tables = []
    for context in (drawn(), drawn(predicted_data=20)):
        evaluation.evaluate(context, ["calibration", "rejection"])
        tables.append(rows(context, "calibration.csv"))
    (table, part), chosen = tables, context.choose(70, 20, "predictions")
    np.testing.assert_array_equal(column(part, "index"), chosen)
    for name in ("label", "sse", "output", "log_prob"):
        np.testing.assert_allclose(column(part, name), column(table, name)[chosen], rtol=1e-5)


def test_a_model_that_predicts_its_errors_is_calibrated(make_context, drawn_networks):
    """Data drawn from the model, whose networks are all alike: errors are noise of std sigma."""
    # Two draws: the mean of two equal numbers is exact, so that their variance is 0 and no rounding.
    context = make_context(drawn_networks, event_shape=(40,), num=200, test_samples=2, model_options=dict(spread=0.0))
    z = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    x = z @ context.model.weight.numpy().T + context.model.offset.numpy()
    x += 0.3 * np.random.default_rng(1).normal(size=x.shape)
    split = dataclasses.replace(context.dataset.test, x=x.astype(np.float32), y=None)
    context.dataset = dataclasses.replace(context.dataset, test=split)
    found = evaluation.evaluate(context, ["calibration"])
    # The fit of two latents takes 2 of 40 degrees of freedom.
    assert found["calibration/ence"] < 0.05 and found["calibration/coverage90"] == pytest.approx(0.9, abs=0.03)
    assert found["calibration/output/spearman"] == 0.0 and found["calibration/coverage50_epistemic"] < 0.01
    assert found["calibration/output/top_decile_ratio"] == pytest.approx(1.0)


def test_rejection_against_the_curves(drawn, feature_file):
    context = drawn(fid_weights=str(feature_file((8, 8, 1))))
    found = evaluation.evaluate(context, ["calibration", "rejection"])
    table = rows(context, "rejection.csv")
    data = rows(context, "calibration.csv")
    sse = column(data, "sse")
    for name, score in (("output", column(data, "output")), ("likelihood", -column(data, "log_prob"))):
        kept = sse[np.argsort(score)][: round(0.5 * len(sse))]
        half = next(row for row in table if float(row["rejected"]) == 0.5)
        assert float(half[f"sse_{name}"]) == pytest.approx(kept.mean(), rel=1e-4)
        area = calibration.area(column(table, f"sse_{name}"))
        assert found[f"rejection/sse/{name}/area"] == pytest.approx(area, rel=1e-5)
        room = found["rejection/sse/random/area"] - found["rejection/sse/oracle/area"]
        share = (found["rejection/sse/random/area"] - area) / room
        assert found[f"rejection/sse/{name}/normalised_area"] == pytest.approx(share, abs=1e-4)
    assert (np.diff(column(table, "sse_oracle")) <= 0).all()
    np.testing.assert_allclose(column(table, "sse_random"), sse.mean(), rtol=1e-5)
    assert 0 <= found["rejection/classifier/confidence/area"] <= 1
    assert (context.run.workdir / "figures" / "rejection.png").exists()


def test_without_a_classifier_the_rest_is_reported(drawn, capsys):
    found = evaluation.evaluate(drawn(), ["rejection"])
    assert found["rejection/classifier"] == "unsupported" and found["rejection/sse/latent/area"] > 0
    assert "No feature network is kept for blobs" in capsys.readouterr().err


def test_latent_grid_of_a_linear_decoder(drawn):
    """The variance of W z over draws of W is spread^2 |z|^2 for each pixel: uncertainty grows with the radius."""
    context = drawn(test_samples=200, batch_size=512, model_options=dict(spread=0.2), ood_datasets=("noise",))
    codes = context.test_codes[0]
    found = evaluation.evaluate(context, ["latent_grid"])
    table = rows(context, "latent_grid.csv")
    points = np.stack([column(table, "x"), column(table, "y")], axis=1)
    assert len(points) == 2500
    for axis in range(2):
        low, high = codes[:, axis].min(), codes[:, axis].max()
        assert points[:, axis].min() == pytest.approx(low - 0.3 * (high - low), rel=1e-4)
        assert points[:, axis].max() == pytest.approx(high + 0.3 * (high - low), rel=1e-4)
    np.testing.assert_allclose(column(table, "std"), 0.2 * np.linalg.norm(points, axis=1), rtol=0.04, atol=0.002)
    assert found["latent_grid/std_max"] == pytest.approx(column(table, "std").max())
    assert found["latent_grid/std_at_codes"] == pytest.approx(0.2 * np.linalg.norm(codes, axis=1).mean(), rel=0.04)
    nearest = np.linalg.norm(points[:5, None] - codes[None], axis=-1).min(axis=1)
    np.testing.assert_allclose(column(table, "distance")[:5], nearest, rtol=1e-4)
    assert found["latent_grid/noise/std_at_codes"] > 0
    assert [path.stem for path in context.figures] == ["latent_uncertainty"]


def test_latent_grid_of_one_decoder_has_the_std_that_it_gives(make_context):
    model = build("ae", event_shape=EVENT_SHAPE, likelihood="gaussian_decoder", latent_dim=2)
    context = make_context(model, event_shape=EVENT_SHAPE, num=40)
    codes = context.test_codes[0]
    found = evaluation.evaluate(context, ["latent_grid"])
    std = np.sqrt(model.likelihood.variance(model.decoder_outputs(model.latents(codes))).numpy()).mean()
    assert found["latent_grid/std_at_codes"] == pytest.approx(std, rel=1e-4)
    assert (context.run.figures / "latent_uncertainty.png").exists()


def test_latent_grid_of_more_latents_is_a_plane(drawn):
    context = drawn(model_options=dict(latent_dim=4))
    found = evaluation.evaluate(context, ["latent_grid"])
    assert 0 < found["latent_grid/plane_variance"] <= 1 and found["latent_grid/std_min"] > 0
    flat = drawn(event_shape=(5,), model_options=dict(latent_dim=2))
    assert evaluation.evaluate(flat, ["latent_grid"])["latent_grid/std_max"] > 0


def test_one_latent_has_no_plane(drawn, capsys):
    found = evaluation.evaluate(drawn(model_options=dict(latent_dim=1)), ["latent_grid"])
    assert found == {"latent_grid": "unsupported"}
    assert "needs at least two" in capsys.readouterr().err


def test_margins_are_those_of_each_axis():
    assert latent_grid.margins(np.array([0.0, 10.0])) == (-3.0, 13.0)
    assert latent_grid.points(np.array([0, 1]), np.array([5, 6])).tolist() == [[0, 5], [1, 5], [0, 6], [1, 6]]


def test_what_a_model_lacks_is_unsupported(make_context, plain_autoencoder, capsys):
    names = ["calibration", "rejection", "latent_grid"]
    found = evaluation.evaluate(make_context(plain_autoencoder), names)
    assert found == {name: "unsupported" for name in names}
    assert "A plain autoencoder has no density." in capsys.readouterr().err


def test_a_model_without_predictive_density(drawn):
    context = drawn()

    def refuse(*args, **kwargs):
        raise NotImplementedError("No density.")

    context.model.predictive_log_prob = refuse
    found = evaluation.evaluate(context, ["calibration", "rejection"])
    assert found["calibration/log_prob"] == found["rejection/sse/likelihood"] == "unsupported"
    assert found["rejection/sse/output/area"] > 0


def test_std_pictures_of_other_data(drawn):
    context = drawn(ood_datasets=("noise",), ood_bootstrap=30)
    found = evaluation.evaluate(context, ["ood"])
    assert {"ood_noise_std", "ood_noise_scores"} <= {path.stem for path in context.figures}
    for score in ("reconstruction", "kl"):
        for figure in ("auroc", "auprc", "auprc_in", "fpr95", "fpr80"):
            low, high = (found[f"ood/noise/{score}/{figure}_{end}"] for end in ("low", "high"))
            assert 0 <= low <= high <= 1
    again = evaluation.evaluate(drawn(ood_datasets=("noise",), ood_bootstrap=0), ["ood"])
    assert not [key for key in again if key.endswith(("_low", "_high"))]
    assert {key: found[key] for key in again} == pytest.approx(again)


@pytest.mark.parametrize("flags, words", [
    (dict(imputation_masks=("half", "lefty")), "'lefty' is not understood; allowed: full, noise, half, region, none"),
    (dict(imputation_masks=("half", "half")), "names 'half' twice"),
    (dict(labels_per_class=(1, 0)), "--labels_per_class=1,0"),
    (dict(labels_per_class=()), "--labels_per_class="),
])  # fmt: skip
def test_mistakes_in_flags_are_told_at_once(flags, words):
    with pytest.raises(UserError, match=words):
        evaluation.check(record.make("vae", **flags))


def test_the_toy_draws_the_same_networks_for_the_same_seed(drawn):
    model, x = drawn().model, np.zeros((3, 8, 8, 1), np.float32)
    a, b = (model.draw_codes(x, 4, seeds.as_seed((1, 2))).numpy() for _ in range(2))
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(a[:, 0], a[:, 1])


# ---- curvature -----------------------------------------------------------------------------------------


def test_methods_of_curvature_beside_each_other(make_context):
    model = build("mcdropout_ae", hidden_units=(6, 5), latent_dim=2)
    context = make_context(model, event_shape=EVENT_SHAPE, curvature_images=48, batch_size=16)
    found = evaluation.evaluate(context, ["curvature"])
    x = context.dataset.train.x
    y, _ = model.preprocess(x[context.choose(len(x), 48, "curvature")])
    exact = curvature.ggn((model.encoder, model.decoder), y)
    assert found["curvature/exact/sum"] == pytest.approx(float(np.sum(exact)), rel=1e-3)
    table = rows(context, "curvature.csv")
    assert sum(int(row["weights"]) for row in table) == len(exact)
    last = table[-1]["layer"]
    assert found[f"curvature/approx/ratio/{last}"] == pytest.approx(1.0, rel=1e-3)
    assert found[f"curvature/hybrid/ratio/{last}"] == pytest.approx(1.0, rel=1e-3)
    assert found["curvature/mix/ratio"] == pytest.approx(1.0, rel=1e-3)  # every layer is narrower than mix_width
    assert 0.5 < found["curvature/mc/ratio"] < 2 and 0 < found["curvature/mc/seconds"]
    assert {path.stem for path in context.figures} == {"curvature"}


def test_curvature_of_encoders_with_raw_scales_is_that_of_their_codes(make_context):
    """The columns of the last layer that give no code have no curvature; the rest is that of codes alone."""
    model = build("ae", hidden_units=(6,), latent_dim=2)
    assert model.encoder.compute_output_shape((1, *EVENT_SHAPE))[-1] == 4
    context = make_context(model, event_shape=EVENT_SHAPE, curvature_images=16, batch_size=16)
    found = evaluation.evaluate(context, ["curvature"])
    x = context.dataset.train.x
    y, _ = model.preprocess(x[context.choose(len(x), 16, "curvature")])
    plain = build("lae_posthoc", hidden_units=(6,), latent_dim=2)
    plain.initialise_from(model)
    assert plain.encoder.compute_output_shape((1, *EVENT_SHAPE))[-1] == 2
    exact = curvature.ggn((plain.encoder, plain.decoder), y)
    assert found["curvature/exact/sum"] == pytest.approx(float(np.sum(exact)), rel=1e-4)


def test_curvature_needs_a_chain(make_context):
    context = make_context(build("vae"), event_shape=EVENT_SHAPE)
    assert evaluation.evaluate(context, ["curvature"]) == {"curvature": "unsupported"}
