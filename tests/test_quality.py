"""Models reach the quality that their configs state, on real data."""

from pathlib import Path

import pytest

from pae_zoo import evaluate, launch, main
from pae_zoo.run import Run

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
# Mean squared error of 32 principal components of the training images on the test images.
PCA_32 = 0.01514


def train(config, workdir, data_dir, *flags):
    argv = [f"--flagfile={CONFIGS / config}", f"--data_dir={data_dir}", f"--workdir={workdir}", *flags]
    assert launch.run(main.main, argv) == 0
    return Run(workdir).read_metrics()


@pytest.mark.data
def test_three_epochs_of_the_ae_beat_pca(data_dir, tmp_path):
    found = train("ae/fashion_mnist_cpu.cfg", tmp_path, data_dir, "--epochs=3", "--lr_schedule=constant")
    assert found["test/mse"] < PCA_32


@pytest.mark.data
def test_the_main_job_on_real_images(data_dir, tmp_path):
    flags = ["--epochs=2", "--num_train=20000", "--importance_samples=16"]
    flags += ["--tasks=likelihood,ood", "--ood_datasets=mnist"]
    found = train("vae/fashion_mnist_cpu.cfg", tmp_path, data_dir, *flags)
    # The training images' mean with their variance about it gives -153 nats.
    assert found["test/log_likelihood"] >= found["test/elbo"] > 0
    assert found["ood/mnist/likelihood/auroc"] > 0.8
    assert launch.run(evaluate.main, [f"--workdir={tmp_path}", "--tasks=reconstruction"]) == 0


@pytest.mark.slow
@pytest.mark.data
def test_dense_ae_reaches_its_bar(data_dir, tmp_path):
    assert train("ae/fashion_mnist_cpu.cfg", tmp_path, data_dir)["test/mse"] <= 0.0105


@pytest.mark.slow
@pytest.mark.data
def test_ae_reconstructs_better_than_vae_and_vae_than_beta_vae(data_dir, tmp_path):
    configs = ("ae/fashion_mnist_cpu.cfg", "vae/fashion_mnist_dense_cpu.cfg", "vae/fashion_mnist_beta_cpu.cfg")
    errors = [train(c, tmp_path / c, data_dir, "--epochs=10")["test/mse"] for c in configs]
    assert errors[0] < errors[1] < errors[2]
