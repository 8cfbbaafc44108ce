"""The leaderboard: its numbers are those of metrics.json, what is best and what loses, its files, what is refused."""

import csv
import html.parser
import json
import re

import numpy as np
import pytest
from made_runs import AE, COST, VAE, make, three_models

from pae_zoo import leaderboard
from pae_zoo.experiment import launch
from pae_zoo.reporting import html as pieces
from pae_zoo.reporting import merits


def call(*argv):
    return launch.run(leaderboard.main, list(argv))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of the runs, folder of the three files)"""
    folder = tmp_path_factory.mktemp("board")
    three_models(folder / "runs")
    assert call(f"--workdirs={folder}/runs/*", f"--output={folder}/out") == 0
    return folder / "runs", folder / "out"


def lines(out):
    with open(out / "leaderboard.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def one(out, **wanted):
    found = [line for line in lines(out) if all(line[key] == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def test_means_and_spreads_are_those_of_metrics_json(made):
    for model, runs in {"vae": VAE, "ae": AE}.items():
        found = one(made[1], data="digits", model=model, figure="MSE")
        numbers = [metrics["test/mse"] for metrics in runs]
        assert float(found["mean"]) == pytest.approx(np.mean(numbers))
        assert float(found["std"]) == pytest.approx(np.std(numbers, ddof=1))
        assert found["seeds"] == str(len(runs)) and found["key"] == "test/mse"
    assert one(made[1], data="wine", figure="MSE")["std"] == ""


def test_the_best_is_bold_and_lower_is_better_for_errors(made):
    assert one(made[1], data="digits", model="ae", figure="MSE")["best"] == "1"
    assert one(made[1], data="digits", model="vae", figure="MSE")["best"] == "0"
    best = [line for line in lines(made[1]) if line["figure"] == "noise: AUROC" and line["best"] == "1"]
    assert [line["variant"] for line in best] == ["error"]
    text = (made[1] / "leaderboard.md").read_text()
    assert "| **0.025 ± 0.0071** |" in text and "## wine" in text and "(lower is better)" in text
    assert one(made[1], data="wine", figure="MSE")["best"] == "0"  # of one model none is best


def test_what_lacks_and_what_loses_is_said(made):
    # A plain autoencoder has no likelihood at all; wine's vae has one, and nobody has asked.
    assert one(made[1], data="digits", model="ae", figure="ELBO")["status"] == "not supported"
    assert not [line for line in lines(made[1]) if line["data"] == "wine" and line["task"] == "likelihood"]
    lost = one(made[1], model="vae", figure="noise: AUROC", variant="elbo")
    assert lost["beaten_by"] == "knn_codes 0.95"
    assert "vae (latent_dim=2) loses" not in (made[1] / "leaderboard.md").read_text()
    assert "vae loses to simple methods: noise: AUROC 0.9 of elbo, knn_codes 0.95." in (
        made[1] / "leaderboard.md").read_text()


def test_settings_make_rows_of_their_own_and_repeated_seeds_are_told(tmp_path, capsys):
    make(tmp_path / "a", "vae", 0, {"test/mse": 0.1}, latent_dim=2)
    make(tmp_path / "b", "vae", 0, {"test/mse": 0.2, "test/log_likelihood": 3.0, "test/importance_samples": 5.0},
         latent_dim=4)
    make(tmp_path / "c", "vae", 0, {"test/mse": 0.3}, latent_dim=2)
    make(tmp_path / "d", "ae", 0, {"test/mse": None}, latent_dim=2)
    make(tmp_path / "e", "vlae", 0, {"test/mse": 0.5, "test/log_likelihood": 4.0, "test/importance_samples": 7.0})
    make(tmp_path / "f", "vae", 0, {"test/mse": 0.7}, num_train=100)
    assert call(f"--workdirs={tmp_path}/*", f"--output={tmp_path}/out") == 0
    assert "c is left out: a has the same settings and seed." in capsys.readouterr().out
    found = {line["settings"]: line for line in lines(tmp_path / "out") if line["figure"] == "MSE"}
    assert set(found) == {"vae (latent_dim=2)", "vae (latent_dim=4)", "ae", "vlae", "vae"}
    assert found["ae"]["status"] == "not finite" and found["vae"]["data"] == "digits (num_train=100)"
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert "log p(x) is not compared: the runs differ in test/importance_samples." in text
    assert one(tmp_path / "out", settings="vae (latent_dim=2)", figure="log p(x)")["status"] == "not run"
    # Again: the files are replaced.
    assert call(f"--workdir={tmp_path}/e", f"--output={tmp_path}/out") == 0
    assert {line["model"] for line in lines(tmp_path / "out")} == {"vlae"}


class Reader(html.parser.HTMLParser):
    """Keeps what stands open, every attribute, and the text of scripts by their type."""

    VOID = {"meta", "link", "br", "img", "circle", "line", "rect"}

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.scripts = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs), list(self.open)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs), list(self.open)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[self.found[-1][1].get("type", "")] = data


def test_the_page_is_whole_and_needs_nothing_else(made):
    text = (made[1] / "leaderboard.html").read_text(encoding="utf-8")
    page = Reader(text)
    assert not page.open and not re.search(r"https?://", text)
    for _, attributes, _ in page.found:
        assert all((attributes.get(name) or "data:").startswith(("data:", "#")) for name in ("src", "href"))
    heads = [above for tag, attributes, above in page.found if tag == "button" and "th" in above]
    sorted_heads = [attributes for tag, attributes, _ in page.found if tag == "th" and "aria-sort" in attributes]
    assert heads and len(heads) == len(sorted_heads)
    data = json.loads(page.scripts["application/json"])
    assert len(data["groups"]) == 3 and len(data["maps"]) == 4
    assert data["maps"][0]["labels"]["1"] == "o</script>ne" and len(data["maps"][0]["x"]) == 60
    # The number of noise shows the pictures of noise, not those of other sets.
    shown = [attributes for _, attributes, _ in page.found
             if attributes.get("data-title") == "vae elbo: noise: AUROC"]
    group = data["groups"][int(shown[0]["data-group"])]
    assert [group["pictures"][int(i)][0] for i in shown[0]["data-show"].split(",")] == ["ood_noise_scores"]
    assert "seed 0: 0.9, seed 1: 0.9" in shown[0]["data-note"]


def luminance(colour):
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    parts = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return parts @ [0.2126, 0.7152, 0.0722]


def test_colours_have_contrast_in_light_and_dark():
    style = (pieces.ASSETS / "page.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL):
        colours = dict(re.findall(r"--(\w+): (#\w{6})", block))
        assert len(colours) == 18

        def contrast(a, b, colours=colours):
            low, high = sorted((luminance(colours[a]), luminance(colours[b])))
            return (high + 0.05) / (low + 0.05)

        for back in ("back", "raised"):
            assert min(contrast(name, back) for name in ("text", "quiet", "accent", "lost")) >= 4.5
        assert contrast("text", "best") >= 4.5
        assert min(contrast(f"c{number}", "back") for number in range(10)) >= 3


def test_bad_input_is_one_line(tmp_path, capsys):
    make(tmp_path / "late", "vae", 0, {"test/mse": 0.1}, finished=False)
    make(tmp_path / "broken", "vae", 0, {"test/mse": 0.1}).write_text("metrics.json", '{"test/mse": 0.1')
    make(tmp_path / "map", "vae", 0, {"test/mse": 0.1}).write_text("latent_map.npz", "no archive")
    picture = make(tmp_path / "picture", "vae", 0, {"test/mse": 0.1}).figures / "samples.png"
    picture.write_bytes(b"no picture")
    out = f"--output={tmp_path / 'out'}"
    for argv, words in [
        ([], "--output is needed"), ([out], "--workdir is needed"),
        ([f"--workdirs={tmp_path}/x*", out], "matches no folder"),
        ([f"--workdir={tmp_path / 'late'}", out], "None of 1 runs is finished: late."),
        ([f"--workdir={tmp_path / 'broken'}", out], "metrics.json"),
        ([f"--workdir={tmp_path / 'map'}", out], "latent_map.npz"),
        ([f"--workdir={tmp_path / 'picture'}", out], "samples.png"),
        ([f"--workdir={tmp_path / 'map'}", f"--output={tmp_path / 'map' / 'flags.cfg'}"], "is a file"),
    ]:  # fmt: skip
        assert call(*argv) == 2
        error = capsys.readouterr().err
        assert words in error and len(error.splitlines()) == 1 and not (tmp_path / "out" / "leaderboard.html").exists()


def test_unfinished_runs_are_named_and_left_out(made, capsys):
    assert call(f"--workdirs={made[0]}/*", f"--output={made[1]}") == 0
    printed = capsys.readouterr().out
    assert "late is left out: its training or evaluation is not finished." in printed
    assert "digits: 2 models, 5 runs" in printed
    assert not [line for line in lines(made[1]) if line["key"] == "train/steps"] and COST["train/steps"]


def test_every_way_has_words_and_an_order():
    for rule in merits.RULES:
        assert merits.words(rule.better) or not rule.better
        assert rule.better in (merits.HIGHER, merits.LOWER, merits.NEITHER) or 0 < float(rule.better) <= 1
        assert merits.order(rule.task) >= 0
    target = merits.figure("generation/c2st")
    assert target.loss(0.41) == pytest.approx(0.09) and target.loss(0.5) == 0
    assert merits.figure("test/mse_stderr") is None and merits.figure("labels/linear/seconds") is None
    assert merits.figure("restoration/knn/mse_mean@half").column == "half: MSE of hidden values"
    assert merits.figure("test/elbo@line_search2").variant == "@line_search2"


def test_means_and_places_over_data_sets(tmp_path, capsys):
    auroc = {"vae": {"digits": [0.9, 0.8], "wine": [0.6, 0.7]}, "ae": {"digits": [0.7, 0.5], "wine": [0.8, 0.8]},
             "vlae": {"digits": [0.75, 0.75]}}
    for model, sets in auroc.items():
        for dataset, values in sets.items():
            for seed, value in enumerate(values):
                figures = {"ood/other_classes/reconstruction/auroc": value, "test/mse": 1 - value,
                           "ood/other_classes/baseline_knn_pixels/auroc": 0.72}
                make(tmp_path / f"{model}_{dataset}_{seed}", model, seed, figures, dataset=dataset)
    assert call(f"--workdirs={tmp_path}/*_*", f"--output={tmp_path}/out") == 0
    out = capsys.readouterr().out
    assert "all data sets" not in out  # the lines count runs, each once
    found = {(line["model"], line["figure"], line["role"]): line for line in lines(tmp_path / "out")
             if line["data"] == "all data sets"}
    mean = "other_classes: AUROC, mean"
    assert float(found["vae", mean, "model"]["mean"]) == pytest.approx(0.75)
    assert float(found["vae", mean, "model"]["std"]) == pytest.approx(0, abs=1e-9)  # 0.75 in both seeds
    assert float(found["ae", mean, "model"]["std"]) == pytest.approx(0.1 / 2**0.5)
    assert found["vlae", mean, "model"]["status"] == "1 of 2 sets"
    assert found["vae", mean, "model"]["best"] == "1"
    # On digits vae is before vlae before ae, on wine ae before vae.
    place = "other_classes: AUROC, place"
    places = {model: float(found[model, place, "model"]["mean"]) for model in ("vae", "ae")}
    assert places == {"vae": (1 + 2) / 2, "ae": (3 + 1) / 2}
    assert float(found["", place, "baseline"]["mean"]) == (3 + 2) / 2  # the same beside both of them, once
    assert found["vlae", place, "baseline"]["status"] == "1 of 2 sets" and ("vae", place, "baseline") not in found
    assert found["ae", mean, "model"]["seeds"] == "2"
    assert "MSE, mean" not in {figure for _, figure, _ in found}  # errors of other data are on other scales
    assert float(found["ae", "MSE, place", "model"]["mean"]) == 2.0
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert text.index("## all data sets") < text.index("## digits") and "other_classes: AUROC: 2 data sets." in text
    page = Reader((tmp_path / "out" / "leaderboard.html").read_text())
    data = json.loads(page.scripts["application/json"])
    assert not page.open and len(data["groups"]) == 4 + 5


def test_one_model_on_two_data_sets_has_no_summary(made):
    assert {line["data"] for line in lines(made[1])} == {"digits", "wine"}
