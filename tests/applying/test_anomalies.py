"""--outputs=anomalies: p-values by the run's own validation data, kept with it, and what is odd about each datum."""

import csv

import numpy as np
import tensorflow as tf
from battery import EVENT_SHAPE, build, hparams, images

from pae_zoo import anomaly, apply, export
from pae_zoo.experiment import launch
from pae_zoo.experiment.workdir import Run


def command(*flags):
    return launch.run(apply.main, list(flags))


def test_unusual_images_are_flagged_and_the_calibration_is_kept(tmp_path, capsys):
    x = images(130, seed=3, event_shape=EVENT_SHAPE)
    np.savez(tmp_path / "train.npz", x_train=x, x_test=x[:3])
    run, model = Run(tmp_path / "run"), build("ae")
    values = hparams("ae", dataset=f"npz:{tmp_path / 'train.npz'}", validation_fraction=0.5)
    run.write_config(values)
    run.save("model.keras", model.save)
    new = np.concatenate([x[:5], 1.0 - np.round(x[5:6])]).astype(np.float32)
    np.savez(tmp_path / "new.npz", x=new)
    flags = (f"--workdir={run.workdir}", f"--input=npz:{tmp_path / 'new.npz'}", "--outputs=anomalies")
    assert command(*flags, f"--out={tmp_path / 'one.npz'}", "--fdr=0.2") == 0
    assert "65 validation data" in capsys.readouterr().err
    found = dict(np.load(tmp_path / "one.npz"))
    assert found["anomaly_rank"][5] == 1 and sorted(found["anomaly_rank"]) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_array_equal(found["anomaly_flag"], anomaly.discoveries(found["anomaly_pvalue"], 0.2))
    kept = np.load(run.workdir / "calibration.npz")
    scores = {name: np.asarray(one) for name, one in model.ood_scores(new).items()}
    together = anomaly.Combined({name: kept[f"score_{name}"] for name in scores}).score(scores)
    np.testing.assert_allclose(found["anomaly_score"], together.scores, rtol=1e-4)
    np.testing.assert_allclose(found["anomaly_pvalue"], together.pvalues, rtol=1e-6)
    residual = (new - np.asarray(model(new))) / kept["residual_std"]
    np.testing.assert_allclose(found["anomaly_residual"], residual, rtol=1e-3, atol=1e-4)
    assert (run.figures / "anomalies.png").exists()
    # Without the training data the run's own calibration serves.
    (tmp_path / "train.npz").unlink()
    assert command(*flags, f"--out={tmp_path / 'two.csv'}") == 0
    assert "anomaly_residual" in capsys.readouterr().err
    with open(tmp_path / "two.csv") as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["anomaly_pvalue"]) for row in rows], found["anomaly_pvalue"], rtol=1e-6)
    assert command(*flags, f"--out={tmp_path / 'c.npz'}", "--contamination=0.25") == 0
    above = together.scores > np.quantile(anomaly.Combined({n: kept[f"score_{n}"] for n in scores}).calibration, 0.75)
    np.testing.assert_array_equal(np.load(tmp_path / "c.npz")["anomaly_flag"], above)
    assert command(*flags, f"--out={tmp_path / 'd.npz'}", "--contamination=0.25", "--fdr=0.1") == 2
    to = [f"--workdir={run.workdir}", f"--export_dir={tmp_path / 'served'}", "--signatures=anomaly"]
    assert launch.run(export.main, to) == 0
    served = tf.saved_model.load(str(tmp_path / "served" / "1")).signatures["anomaly"]
    answer = served(x=tf.constant(new), seed=tf.constant([0, 1]))
    np.testing.assert_allclose(answer["score"], together.scores, rtol=1e-4)
    np.testing.assert_allclose(answer["pvalue"], together.pvalues, rtol=1e-5)
    np.testing.assert_allclose(answer["residual"], residual, rtol=1e-3, atol=1e-4)
    assert command(*flags, f"--out={tmp_path / 'three'}") == 0
    assert len(list((tmp_path / "three" / "anomaly_residual").glob("*.png"))) == 6
    (run.workdir / "calibration.npz").unlink()
    assert command(*flags, f"--out={tmp_path / 'four.npz'}") == 2
    assert "train.npz" in capsys.readouterr().err.splitlines()[-1]
