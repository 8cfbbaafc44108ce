"""Distances of pairs over retrained models: tables that can be resumed, and what is made of many of them."""

import argparse
import csv
import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import evaluate as evaluate_launcher
from pae_zoo import evaluation, main
from pae_zoo.core.errors import UserError
from pae_zoo.evaluation.metrics import agreement as statistics
from pae_zoo.evaluation.support import latent_geometry, stability_report, stability_tables
from pae_zoo.evaluation.tasks import distance_stability
from pae_zoo.geometry import curves
from pae_zoo.plotting import figures


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(figures, "DPI", 30)
    monkeypatch.setattr(distance_stability, "CHUNK", 3)


class Decoder:
    """A linear decoder with three members, or with a std; its geodesics are straight lines."""

    def __init__(self, model, kind):
        spread = 0.2 * np.array([-1.0, 0.0, 1.0], np.float32)
        members = [model.weight * (1.0 + s) for s in spread]
        if kind == "members":
            self.mean_and_members = lambda z: (z @ tf.transpose(model.weight),
                                               tf.stack([z @ tf.transpose(w) for w in members]))  # fmt: skip
        else:
            std = lambda z: 0.3 + 0.1 * tf.square(z @ tf.transpose(model.weight))  # noqa: E731
            self.mean_and_std = lambda z: (z @ tf.transpose(model.weight), std(z))
            self.mean_and_root_precision = lambda z: (z @ tf.transpose(model.weight), 1.0 / std(z))


@pytest.fixture
def retrained(make_context, linear_gaussian, tmp_path):
    """Returns make(seed, kind="members", name=None, **flags) -> context of a model with its own weights and folder."""

    class Linear(linear_gaussian):
        kind = "members"

        def geometry_decoder(self, num_members, seed=None):
            return Decoder(self, self.kind)

        def get_weights(self):
            return [self.weight.numpy()]

    def make(seed, kind="members", name=None, **flags):
        values = dict(stability_pairs=7, geodesic_points=12, geodesic_init="line", seed=seed)
        context = make_context(Linear, (6, 6, 1), 60, dict(seed=seed), **{**values, **flags})
        name_of_model = "vae" if kind == "members" else "ae"
        context.hparams = dataclasses.replace(context.hparams, model=name_of_model)
        context.model.kind = kind
        context.run = type(context.run)(tmp_path / "runs" / (name or f"{kind}_{seed}"))
        context.run.workdir.mkdir(parents=True, exist_ok=True)
        return context

    return make


@pytest.fixture
def quick(monkeypatch):
    """Straight lines in the place of geodesics, for tests that are not about these; returns the calls made."""
    calls = []

    def measure(context, name, path, ends, first, solved):
        calls.append(name)
        mean = np.linalg.norm((ends[:, 1] - ends[:, 0]) @ context.model.weight.numpy().T, axis=1)
        none, one = np.full(len(ends), np.nan), np.ones(len(ends), int)
        factor = {"decorrelated": 1.2, "coupled": 1.02, "straight": 1.02}.get(name, 1.0)
        return {"rms": factor * mean, "mean": mean, "expected": none, "published": none, "energy": mean**2,
                "line_energy": mean**2, "steps": one, "converged": one, "finite": one}  # fmt: skip

    monkeypatch.setattr(distance_stability, "_measure", measure)
    return calls


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(stability_report, "_pictures", lambda *args: [])


def evaluate(context):
    return evaluation.evaluate(context, ["distance_stability"])


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def compare(contexts, **flags):
    options = argparse.Namespace(**{"stability_dir": "", "stability_unconverged": "exclude", **flags})
    return list(evaluation.over_runs(["distance_stability"], [context.run for context in contexts], options))


# ---- one run -------------------------------------------------------------------------------------------


def test_distances_of_a_linear_ensemble(retrained):
    context = retrained(0)
    found = evaluate(context)
    table = rows(context.run.workdir / "distance_stability.csv")
    assert len(table) == 7 * 3 and tuple(table[0]) == stability_tables.COLUMNS
    codes = context.test_codes[0]
    for row in table:
        step = codes[int(row["index_b"])] - codes[int(row["index_a"])]
        mean = np.linalg.norm(context.model.weight.numpy() @ step)
        assert float(row["latent"]) == pytest.approx(np.linalg.norm(step), rel=1e-5)
        if row["path"] != "decorrelated":  # whose minimisers are no geodesics
            assert float(row["mean"]) == pytest.approx(mean, rel=1e-3)
            assert float(row["rms"]) == pytest.approx(mean * np.sqrt(1 + 2 / 3 * 0.04), rel=1e-3)
        assert row["model"] == "vae" and row["model_seed"] == "0" and row["finite"] == "1"
    assert found["distance_stability/num_pairs"] == 7
    chosen = [float(row["rms"]) for row in table if row["path"] == "coupled"]
    assert found["distance_stability/coupled/rms"] == pytest.approx(np.mean(chosen))
    assert found["distance_stability/coupled/finite"] == 1.0


def test_the_same_pairs_for_every_model_and_seed(retrained, quick):
    contexts = [retrained(0), retrained(1), retrained(2, "std")]
    tables = []
    for context in contexts:
        evaluate(context)
        table = rows(context.run.workdir / "distance_stability.csv")
        tables.append([[row[key] for key in ("index_a", "index_b", "label_a", "pixel")]
                       for row in table if row["path"] == "straight"])  # fmt: skip
    assert tables[0] == tables[1] == tables[2]


def test_paths_of_a_mean_with_a_std(retrained):
    context = retrained(0, "std", stability_published=64)
    evaluate(context)
    table = rows(context.run.workdir / "distance_stability.csv")
    by_path = {path: [row for row in table if row["path"] == path] for path in ("coupled", "mean", "straight",
                                                                               "published")}  # fmt: skip
    assert all(len(found) == 7 for found in by_path.values())
    for path, found in by_path.items():
        assert all((row["published"] != "nan") == (path == "published") for row in found)
        assert all((row["energy"] == "nan") == (path == "straight") for row in found)
        assert all(row["expected"] == "nan" for row in found)
    # The sum of two lengths, over the root of the precision instead of the std.
    row = by_path["published"][0]
    assert float(row["published"]) >= float(row["rms"]) * (1 - 1e-3)


def test_the_published_length_grows_with_its_points(retrained):
    context = retrained(0)
    lines = curves.straight(np.array([[0.0, 0.0], [1.0, -1.0]]), np.array([[1.0, 2.0], [0.0, 1.0]]))
    values = []
    for points in (32, 128):
        context.hparams = dataclasses.replace(context.hparams, stability_published=points)
        manifold = latent_geometry.space(context).manifold
        values.append(distance_stability._published_length(context, manifold, lines, 0))
    assert (2.5 < values[1] / values[0]).all() and (values[1] / values[0] < 5.5).all()


def test_an_interrupted_run_goes_on(retrained, capsys, monkeypatch, quick):
    whole = retrained(0, name="whole")
    found = evaluate(whole)
    context = retrained(0, name="cut")
    add, calls = stability_tables.Table.add, []

    def stop(table, new):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(len(new))
        add(table, new)

    monkeypatch.setattr(stability_tables.Table, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(context)
    monkeypatch.setattr(stability_tables.Table, "add", add)
    assert len(rows(context.run.workdir / "distance_stability.csv")) == 6 * 3 and calls == [9, 9]
    again = evaluate(retrained(0, name="cut"))
    assert "6 of 7 pairs are in" in capsys.readouterr().err
    assert again == found
    texts = [(c.run.workdir / "distance_stability.csv").read_text() for c in (whole, context)]
    assert texts[0] == texts[1]


def test_a_finished_table_is_kept_and_another_setting_starts_anew(retrained, quick):
    evaluate(retrained(0))
    assert len(quick) == 3 * 3
    evaluate(retrained(0))
    assert len(quick) == 3 * 3
    evaluate(retrained(0, geodesic_points=13))
    assert len(quick) == 2 * 3 * 3
    changed = retrained(0, geodesic_points=13)
    changed.model.weight = changed.model.weight * 1.1  # trained further
    evaluate(changed)
    assert len(quick) == 3 * 3 * 3
    assert len(rows(changed.run.workdir / "distance_stability.csv")) == 7 * 3
    # What was made with other settings was put away, and comes back with them.
    assert len(list(changed.run.workdir.glob("distance_stability-*.csv"))) == 2
    evaluate(retrained(0))
    assert len(quick) == 3 * 3 * 3
    assert len(rows(changed.run.workdir / "distance_stability.csv")) == 7 * 3
    assert len(list(changed.run.workdir.glob("distance_stability-*.csv"))) == 2


def test_the_published_path_has_the_reference_of_the_paper_whatever_ours_has(retrained):
    tables = {}
    for reference in (256, 16):
        context = retrained(0, name=str(reference), stability_published=64, geodesic_reference=reference)
        evaluate(context)
        tables[reference] = rows(context.run.workdir / "distance_stability.csv")
    path = {(reference, name): [row["rms"] for row in table if row["path"] == name]
            for reference, table in tables.items() for name in ("published", "decorrelated")}  # fmt: skip
    assert path[256, "published"] == path[256, "decorrelated"] == path[16, "published"] != path[16, "decorrelated"]


def test_a_broken_table_is_told(retrained, quick):
    context = retrained(0)
    evaluate(context)
    (context.run.workdir / "distance_stability.csv").write_text("pair,rms\n0,x\n")
    with pytest.raises(UserError, match="distance_stability.csv cannot be read: it has other columns. Delete it"):
        evaluate(retrained(0))


def test_what_a_model_lacks_is_unsupported(make_context, capsys):
    assert evaluate(make_context()) == {"distance_stability": "unsupported"}
    assert "no decoder whose geometry is known" in capsys.readouterr().err


# ---- many runs -----------------------------------------------------------------------------------------


def test_runs_are_compared(retrained, tmp_path, quick):
    contexts = [retrained(seed + 3 * (kind == "std"), kind) for kind in ("members", "std") for seed in range(3)]
    for context in contexts:
        evaluate(context)
    lines = compare(contexts)
    folder = tmp_path / "runs" / "distance_stability"
    assert {path.name for path in folder.iterdir()} == {
        "columns.csv", "tests.csv", "pairs.csv", "models.csv", "energies.csv", "summary.json", "variation.png",
        "discrimination.png"}  # fmt: skip
    energies = rows(folder / "energies.csv")
    own = [stability_tables.column(rows(c.run.workdir / "distance_stability.csv"), "coupled", "energy")
           for c in contexts[:3]]  # fmt: skip
    for number, row in enumerate(energies):
        values = np.array([one[number] for one in own])
        assert float(row["vae: coupled: CV"]) == pytest.approx(values.std(ddof=1) / values.mean(), rel=1e-4)
    name = f"vae: Euclidean @ {contexts[0].run.workdir.name}"
    assert len(energies) == len(rows(folder / "models.csv")) and name in rows(folder / "models.csv")[0]
    summary = json.loads((folder / "summary.json").read_text())
    names = [row["distance"] for row in rows(folder / "columns.csv")]
    assert names == list(summary["columns"]) == [
        "vae: decorrelated", "vae: coupled", "vae: straight line", "vae: Euclidean",
        "ae: coupled", "ae: mean decoder", "ae: straight line", "ae: Euclidean"]  # fmt: skip
    latent = np.stack([stability_tables.column(rows(c.run.workdir / "distance_stability.csv"), "straight", "latent")
                       for c in contexts[:3]])  # fmt: skip
    kept = np.array([row["compared"] == "1" for row in rows(folder / "pairs.csv")])
    expected = statistics.describe(latent[:, kept])
    for key, value in expected.items():
        assert summary["columns"]["vae: Euclidean"][key] == pytest.approx(value, rel=1e-5)
    assert summary["columns"]["vae: coupled"]["spearman"] == pytest.approx(1.0)
    tests = {(row["first"], row["second"]): row for row in summary["tests"]}
    assert len(tests) == 4 * 7
    one, other = tests["vae: coupled", "ae: coupled"], tests["ae: coupled", "vae: coupled"]
    assert one["t"] == pytest.approx(-other["t"]) and one["p"] == pytest.approx(1 - other["p"])
    assert one["df"] == kept.sum() - 1 == summary["compared"] - 1
    text = "\n".join(lines)
    for words in ("3 of vae, 3 of ae", "vae: Euclidean", "vae: coupled < ae: coupled", "picture: ", "CV/B", "ICC"):
        assert words in text


def rewrite(context, change):
    """Changes the rows of a table by hand."""
    path = context.run.workdir / "distance_stability.csv"
    table = rows(path)
    for row in table:
        change(row)
    stability_tables.write(path, stability_tables.COLUMNS, table)


def test_pairs_without_a_geodesic_are_left_out_of_all_columns(retrained, tmp_path, quick, undrawn):
    contexts = [retrained(seed) for seed in range(2)]
    for context in contexts:
        evaluate(context)
    rewrite(contexts[1], lambda row: row.update(converged=str(int((row["pair"], row["path"]) != ("2", "coupled")))))
    rewrite(contexts[0], lambda row: row.update(finite="0", rms="nan") if row["pair"] == "4" else None)
    text = "\n".join(compare(contexts, stability_dir=str(tmp_path / "found")))
    assert "vae: coupled: in some run 1 pairs did not converge, 1 are not finite." in text
    assert "2 of 7 pairs are left out of all columns; 5 are compared." in text
    summary = json.loads((tmp_path / "found" / "summary.json").read_text())
    assert summary["compared"] == 5 and summary["not_converged"]["vae: coupled"] == 1
    compare(contexts, stability_dir=str(tmp_path / "found"), stability_unconverged="keep")
    assert json.loads((tmp_path / "found" / "summary.json").read_text())["compared"] == 6
    rewrite(contexts[0], lambda row: row.update(converged=str(int(row["pair"] in "356"))))
    assert "Fewer than half are left." in "\n".join(compare(contexts, stability_dir=str(tmp_path / "found")))
    rewrite(contexts[0], lambda row: row.update(converged="0"))
    with pytest.raises(UserError, match="only 0 of 7 pairs .* --stability_unconverged=keep"):
        compare(contexts)


def test_one_run_is_too_few(retrained, quick):
    context = retrained(0)
    evaluate(context)
    lines = compare([context])
    assert "vae has one run, members_0, and is left out" in lines[0]
    assert len(lines) == 2 and "at least 2 retrained models" in lines[1]
    assert not (context.run.workdir.parent / "distance_stability").exists()


def test_runs_without_distances_and_copies_are_left_out(retrained, quick, undrawn):
    contexts = [retrained(0), retrained(1), retrained(0, name="copy"), retrained(5, name="empty")]
    for context in contexts[:3]:
        evaluate(context)
    text = "\n".join(compare([*contexts, contexts[0]]))
    assert "copy has the same weights as members_0 and is left out." in text
    assert "empty has no distances and is left out." in text
    assert "2 of vae" in text


def test_a_table_that_is_not_whole_is_left_out(retrained, quick, undrawn):
    contexts = [retrained(seed) for seed in range(3)]
    for context in contexts:
        evaluate(context)
    path = contexts[2].run.workdir / "distance_stability.csv"
    stability_tables.write(path, stability_tables.COLUMNS, rows(path)[:6])
    text = "\n".join(compare(contexts))
    assert "members_2 has 6 of 21 distances and is left out." in text and "2 of vae" in text


def test_two_data_that_are_the_same_are_left_out(retrained, quick, tmp_path):
    contexts = [retrained(0), retrained(1)]
    for context in contexts:
        evaluate(context)
        rewrite(context, lambda row: row.update(rms="0", latent="0") if row["pair"] == "3" else None)
    text = "\n".join(compare(contexts, stability_dir=str(tmp_path / "found")))
    assert "1 pairs have distance 0" in text and "6 are compared" in text
    with pytest.raises(UserError, match="is a file; name a folder"):
        compare(contexts, stability_dir=str(tmp_path / "found" / "columns.csv"))


def test_what_makes_groups_differ_by_itself_is_told(retrained, quick, undrawn):
    contexts = [retrained(seed, kind, stability_pairs=3) for kind in ("members", "std") for seed in range(2)]
    for context in contexts:
        if context.model.kind == "std":
            context.hparams = dataclasses.replace(context.hparams, num_train=50)
        evaluate(context)
    assert "num_train is not the same for all: 0 of vae, 50 of ae." in "\n".join(compare(contexts))


def test_groups_are_told_apart_by_their_flags(retrained, quick, undrawn):
    contexts = [retrained(seed, name=f"{width}_{seed}", hidden_units=(width,), stability_pairs=3)
                for width in (8, 16) for seed in range(2)]  # fmt: skip
    for context in contexts:
        context.model.weight = context.model.weight + 0.01 * context.hparams.hidden_units[0]
        evaluate(context)
    text = "\n".join(compare(contexts))
    assert "vae (hidden_units=8): coupled" in text and "vae (hidden_units=16): Euclidean" in text


@pytest.mark.parametrize("flags, words", [
    (dict(pair_seed=1), "pair_seed is 67 and 1"),
    (dict(geodesic_points=13), "geodesic_points is 12 and 13"),
    (dict(geodesic_energy="coupled"), "along other paths"),
    (dict(geodesic_members=4), "of 4 drawn decoders, other runs of vae of|of 10 drawn decoders, other"),
])  # fmt: skip
def test_runs_that_do_not_compare(retrained, flags, words, quick):
    contexts = [retrained(0, stability_pairs=3), retrained(1, stability_pairs=3, **flags)]
    for context in contexts:
        evaluate(context)
    with pytest.raises(UserError, match=words):
        compare(contexts)


def test_other_data_do_not_compare(retrained, quick):
    contexts = [retrained(0, stability_pairs=3), retrained(1, stability_pairs=3)]
    test = contexts[1].dataset.test
    contexts[1].dataset = dataclasses.replace(contexts[1].dataset, test=dataclasses.replace(test, x=255 - test.x))
    for context in contexts:
        evaluate(context)
    with pytest.raises(UserError, match="their test data differ"):
        compare(contexts)


def test_tasks_without_a_comparison_have_none():
    assert not list(evaluation.over_runs(["reconstruction", "ood"], [], evaluate_launcher.Flags()))


def test_the_folder_is_beside_the_runs(tmp_path):
    runs = [stability_report.Measured(tmp_path / path, {}, []) for path in ("a/0", "a/1", "b/0")]
    assert stability_report._folder(runs[:2], "") == tmp_path / "a" / "distance_stability"
    assert stability_report._folder(runs, "") == tmp_path / "distance_stability"


# ---- the command ---------------------------------------------------------------------------------------


@pytest.mark.full
def test_the_command_compares_retrained_models(tmp_path, capsys, undrawn):
    smoke = ["--smoke", "--nojit_compile", "--latent_dim=2", "--tasks=reconstruction"]
    for seed in range(2):
        assert main.main(["--model=vae", f"--seed={seed}", f"--workdir={tmp_path / f'vae_{seed}'}", *smoke]) == 0
    capsys.readouterr()
    flags = [f"--workdirs={tmp_path}/vae_*", "--tasks=distance_stability", "--geodesic_init=line",
             "--stability_unconverged=keep", "--geodesic_steps=3"]  # fmt: skip
    assert evaluate_launcher.main(flags) == 0
    out = capsys.readouterr().out
    assert "distance_stability: 4 pairs, runs: 2 of vae" in out and "vae: mean decoder < vae: Euclidean" in out
    assert (tmp_path / "distance_stability" / "summary.json").exists()


def test_only_the_released_recipe_is_called_as_published():
    def names(model, group):
        row = {"pair": "0", "path": "published", "published": "1.0", "finite": "1", "converged": "1"}
        rows = [row, {**row, "path": "straight", "rms": "1.0", "latent": "1.0"}]
        run = stability_report.Measured(None, {"model": model, "group": group, "own": {"paths": ["published"]}}, rows)
        return [column.name for column in stability_report.columns_of(model, [run])]

    assert names("rbf_vae", {"rbf_recipe": "released"})[0] == "rbf_vae: as published"
    assert names("rbf_vae", {"rbf_recipe": "published"})[0] == "rbf_vae: root precision"
    assert names("ensemble_vae", {})[0] == "ensemble_vae: as published"
