"""Tasks are found by module name; what a model cannot do is reported, not invented."""

import pytest

from pae_zoo import evaluation
from pae_zoo.core.errors import UserError


def test_tasks_are_found_by_module_name():
    assert {"reconstruction", "likelihood", "generation", "ood"} <= set(evaluation.all_tasks())
    assert "context" not in evaluation.all_tasks()
    assert all(line.endswith(".") for line in evaluation.describe().values())


def test_unknown_task_suggests_the_nearest():
    evaluation.check_tasks(["ood", "likelihood"])
    with pytest.raises(UserError, match="task='likelyhood' is unknown; allowed: .*; did you mean likelihood"):
        evaluation.check_tasks(["ood", "likelyhood"])


def test_results_are_plain_numbers_and_words(make_context):
    results = evaluation.evaluate(make_context(), ["reconstruction", "likelihood"])
    assert all(type(value) in (float, str) for value in results.values())
    assert {"test/mse", "test/elbo", "test/log_likelihood"} <= set(results)


def test_what_a_model_cannot_do_is_unsupported(make_context, plain_autoencoder, capsys):
    names = ["reconstruction", "likelihood", "generation", "ood"]
    results = evaluation.evaluate(make_context(plain_autoencoder), names)
    assert results["test/mse"] > 0
    for key in ("test/elbo", "test/log_likelihood", "test/effective_sample_size", "generation/sample_mean",
                "ood/constant"):  # fmt: skip
        assert results[key] == "unsupported", key
    assert results["generation/active_units"] >= 0
    assert "A plain autoencoder has no density." in capsys.readouterr().err


def test_same_seed_same_numbers_whatever_else_runs(make_context):
    alone = evaluation.evaluate(make_context(), ["likelihood"])
    together = evaluation.evaluate(make_context(), ["reconstruction", "likelihood"])
    assert {key: together[key] for key in alone} == alone


def test_non_finite_numbers_are_told(make_context, linear_gaussian, capsys):
    class Broken(linear_gaussian):
        def __call__(self, x):
            return super().__call__(x) * float("nan")

    results = evaluation.evaluate(make_context(Broken, event_shape=(3,)), ["reconstruction"])
    assert results["test/mse"] != results["test/mse"]
    assert "test/mse is nan" in capsys.readouterr().err


def test_evaluating_many_runs_is_quiet(make_context, capsys, caplog):
    for _ in range(6):
        context = make_context(num=5)
        context.reconstruct(context.dataset.test.x)
    assert "retracing" not in capsys.readouterr().err + caplog.text


def test_tensorboard_shows_scalars_images_and_config(make_context):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    context = make_context()
    (context.run.workdir / "config.json").write_text('{"seed": 3}')
    evaluation.evaluate(context, ["reconstruction", "generation"])
    events = EventAccumulator(str(context.run.workdir / "tensorboard" / "evaluation"))
    events.Reload()
    tags = events.Tags()["tensors"]
    assert {"test/mse", "data", "reconstruction_z", "generated", "config"} <= set(tags)
    assert events.Tensors("test/mse")[0].step == 7
