"""A later stage of training that was interrupted goes on where it stood, for every model that has one."""

import signal

import numpy as np
import pytest

from pae_zoo.experiment import fitting
from pae_zoo.experiment.workdir import Run
from pae_zoo.main import main


@pytest.mark.full
@pytest.mark.parametrize("stage, metric, flags", [
    ("flow", "density/model/nll", ["--model=pae", "--tasks=density"]),
    ("rbf", "rbf/valid_error",
     ["--model=rbf_vae", "--likelihood=gaussian", "--rbf_epochs=3", "--tasks=reconstruction"]),
], ids=["pae", "rbf_vae"])
def test_a_later_stage_resumes_bit_for_bit(stage, metric, flags, tmp_path, monkeypatch):
    flags = [*flags, "--smoke", "--nojit_compile", "--latent_dim=2", "--checkpoint_seconds=0"]
    assert main([*flags, f"--workdir={tmp_path / 'whole'}"]) == 0
    plain, steps = fitting.Keeper.on_train_batch_end, []

    def stop(self, batch, logs=None):
        if self.run.stage == stage:
            steps.append(batch)
            if len(steps) == 2:
                self.signum = signal.SIGTERM
        return plain(self, batch, logs)

    with monkeypatch.context() as patch:
        patch.setattr(fitting.Keeper, "on_train_batch_end", stop)
        assert main([*flags, f"--workdir={tmp_path / 'parts'}"]) == 128 + signal.SIGTERM
    assert not (tmp_path / "parts" / "model.keras").exists()
    assert main([*flags, f"--workdir={tmp_path / 'parts'}"]) == 0
    whole, parts = (Run(tmp_path / name, stage=stage).load_arrays("last")[0] for name in ("whole", "parts"))
    for a, b in zip(whole, parts):
        np.testing.assert_array_equal(a, b)
    found = [Run(tmp_path / name).read_metrics() for name in ("whole", "parts")]
    assert found[0][metric] == found[1][metric] and found[1][f"{stage}/steps"] > 2
