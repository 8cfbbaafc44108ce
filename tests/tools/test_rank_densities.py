"""tools/rank_densities.py: tables of runs, ranks within a table and seed, mistakes in one line."""

import json

import pytest
import rank_densities


def write(folder, density, seed, nll, frechet, c2st, area, dataset="fashion_mnist"):
    run = folder / f"{dataset}_{density}_{seed}"
    run.mkdir()
    hparams = {"dataset": dataset, "latent_dim": 8, "density": density, "seed": seed}
    (run / "config.json").write_text(json.dumps({"hparams": hparams}))
    metrics = {"generation/frechet_r/samples": frechet, "generation/c2st": c2st, "time/flow_s": 3.0,
               "flow/mixture_nll": nll + 1.0, "ood/mnist/latent_density/auroc": area,
               "ood/mnist/reconstruction/auroc": 0.1}  # fmt: skip
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "metrics_flow.jsonl").write_text(json.dumps({"valid/nll": nll}) + "\n")
    return run


def test_tables_and_ranks(tmp_path, capsys):
    for seed in (0, 1):
        write(tmp_path, "flow", seed, 12.0 + seed, 2.0, 0.60, 0.90)
        write(tmp_path, "student_mixture", seed, 11.0 + seed, 1.0, 0.45, 0.95)
    assert rank_densities.main([f"{tmp_path}/*", f"{tmp_path}/*flow*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| fashion_mnist, K = 8 | seeds | -log p | FD-R | C2ST | mnist | fit, s |"
    assert lines[2] == "| flow | 2 | 12.50 (0.50) | 2.00 (0.00) | 0.600 (0.000) | 0.900 (0.000) | 3 (0) |"
    assert lines[-2].startswith("| student_mixture | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 | 2 |")
    assert lines[-1].startswith("| flow | 2.00 | 2.00 | 2.00 | 2.00 | 2.00 | 2 |")


def test_equal_values_share_their_ranks_and_a_table_that_lacks_a_density_has_none(tmp_path):
    paths = [write(tmp_path, density, 0, 1.0, 1.0, 0.5, 0.9) for density in ("flow", "gaussian")]
    paths.append(write(tmp_path, "flow", 0, 1.0, 1.0, 0.5, 0.9, "mnist"))
    found = rank_densities.ranks([rank_densities.read(path) for path in paths])
    assert found["flow"]["FD-R"] == found["gaussian"]["FD-R"] == [1.5]


def test_mistakes_are_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        rank_densities.main([f"{tmp_path}/none*"])
    assert stop.value.code == 2 and "holds no finished run" in capsys.readouterr().err
    run = write(tmp_path, "flow", 0, 1.0, 1.0, 0.5, 0.9)
    (run / "metrics.json").write_text("{}")
    with pytest.raises(SystemExit):
        rank_densities.main([str(run)])
    assert "has no density of codes" in capsys.readouterr().err
