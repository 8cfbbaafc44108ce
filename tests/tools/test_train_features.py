"""The tool that trains feature networks: a file that loads, accuracy, shifts, refusals."""

import numpy as np
import pytest
import train_features

from pae_zoo import data
from pae_zoo.evaluation.features import extractor as features


@pytest.mark.full
def test_digits(tmp_path, capsys):
    path = tmp_path / "mine.npz"
    assert train_features.main(["--dataset=digits", "--epochs=3", f"--out={path}"]) == 0
    extractor, note = features.load(path)
    assert note["sha256"] in capsys.readouterr().out
    assert note["dataset"] == "digits" and note["epochs"] == 3 and note["steps"] == 3 * 11
    model, _ = features.read(path)
    test = data.load("digits").test
    accuracy = (model.predict(test.unit(), verbose=0).argmax(axis=1) == test.y).mean()
    assert note["test_accuracy"] == pytest.approx(accuracy, abs=1e-9) and accuracy > 0.5
    assert extractor.features(test.unit()).shape == (300, 64)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.npz"]


def test_shifts_move_images_and_repeat_their_edges():
    x = np.zeros((400, 28, 28, 1), np.float32)
    x[:, 14, 10] = 1.0
    moved = train_features.shifted(x, (0, 1))
    _, rows, columns, _ = np.nonzero(moved)
    assert set(rows) == set(range(12, 17)) and set(columns) == set(range(8, 13)) and len(rows) == 400
    np.testing.assert_array_equal(train_features.shifted(x[:, :8, :8], (0, 1)), x[:, :8, :8])
    assert (train_features.shifted(np.ones_like(x), (0, 1)) == 1).all()


@pytest.mark.parametrize(
    "flags, told",
    [
        (["--dataset=banana"], "a classifier needs images with labels"),
        (["--dataset=digits", "--out=nowhere/mine.npz"], "is not a .npz file in an existing folder"),
        (["--dataset=digits", "--out=mine.txt"], "is not a .npz file in an existing folder"),
        (["--dataset=digist"], "did you mean digits?"),
        (["--dataset=digits", "--seed=-1"], "an integer of at least 0 is needed"),
    ],
)
def test_what_is_refused(flags, told, capsys):
    with pytest.raises(SystemExit) as exit:
        train_features.main(flags)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and told in error and error.count("\n") == 1
