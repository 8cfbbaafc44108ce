"""Finished runs without a training: folders with the files of a run, whose numbers a test chooses."""

import json

import numpy as np
from PIL import Image

from pae_zoo.evaluation.support import map_points
from pae_zoo.experiment import record
from pae_zoo.experiment.workdir import Run

COST = {"train/steps": 8, "train/steps_asked": 8, "train/epochs": 3, "train/best_epoch": 2, "train/num_weights": 99,
        "time/train_s": 1.5, "time/evaluate_s": 0.5}  # fmt: skip


def make(folder, model, seed, metrics, pictures=(), points="", finished=True, **flags):
    """Writes a run: config.json, flags.cfg, metrics.json, a history of three epochs, pictures and a map; returns it."""
    run = Run(folder)
    folder.mkdir(parents=True)
    run.write_config(record.make(model, seed=seed, **flags), (8, 8, 1))
    run.write_json("metrics.json", {**(COST if finished else {}), **metrics})
    run.write_history([{"epoch": epoch, "step": 4 * epoch, "seconds": 1.0 * epoch, "learning_rate": 1e-3,
                        "train/loss": 9.0 / epoch, "valid/loss": 10.0 / epoch} for epoch in (1, 2, 3)])  # fmt: skip
    run.figures.mkdir()
    for number, name in enumerate(pictures):
        Image.new("RGB", (60, 40), (40 * number % 256, 90, 160)).save(run.figures / f"{name}.png")
    if points:
        write_points(run.workdir / map_points.FILE, points)
    return run


def write_points(path, kind, count=60):
    """Writes a map of `count` made-up points of images, rows or windows."""
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 3
    shape = {"images": (8, 8, 1), "rows": (4,), "windows": (10, 2)}[kind]
    values = rng.uniform(size=(2, count, *shape))
    values = np.round(255 * values).astype(np.uint8) if kind == "images" else values.astype(np.float32)
    meta = {"axes": ["z[0]", "z[1]"], "label_names": ["zero", "o</script>ne", "two"], "dims": 2,
            "names": ["a", "b", "c", "d"] if kind == "rows" else []}  # fmt: skip
    places = rng.normal(size=(count, 2)) + 4 * np.stack([labels, labels % 2], axis=1)
    np.savez(path, places=places.astype(np.float32), labels=labels, errors=rng.uniform(size=count).astype(np.float32),
             original=values[0], decoded=values[1], meta=np.frombuffer(json.dumps(meta).encode(), np.uint8))


VAE = [{"test/mse": mse, "test/mse_stderr": 0.001, "test/elbo": 10.0 + seed, "test/log_likelihood": 11.0,
        "test/importance_samples": 100.0, "ood/noise/elbo/auroc": 0.9, "ood/noise/elbo/auroc_stderr": 0.01,
        "ood/noise/baseline_knn_codes/auroc": 0.95, "ood/noise/baseline_mixture/auroc": 0.5}
       for seed, mse in enumerate((0.03, 0.04, 0.08))]  # fmt: skip
AE = [{"test/mse": mse, "ood/noise/error/auroc": 0.97} for mse in (0.02, 0.03)]


def three_models(folder):
    """Writes three runs of vae, two of ae on digits, one of vae on wine, and one that is not finished."""
    pictures = ("reconstructions", "residual_map", "likelihood", "ood_noise_scores", "ood_vflip_scores")
    for seed, metrics in enumerate(VAE):
        make(folder / f"vae_{seed}", "vae", seed, metrics, pictures, "images", latent_dim=2)
    for seed, metrics in enumerate(AE):
        make(folder / f"ae_{seed}", "ae", seed, metrics, pictures[:2], latent_dim=4)
    make(folder / "wine", "vae", 0, {"test/mse": 0.4}, ("reconstructions",), "rows", dataset="wine")
    make(folder / "late", "vae", 3, {}, finished=False, latent_dim=2)
    return folder
