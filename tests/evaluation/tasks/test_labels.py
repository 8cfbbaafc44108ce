"""The task labels: probabilities by Bayes' rule, the classifier beside, pictures of every kind of data."""

import dataclasses

import battery
import numpy as np
import pytest

from pae_zoo.evaluation import UNSUPPORTED, evaluate


@pytest.mark.parametrize("shape", [(8, 8, 1), pytest.param((5,), marks=pytest.mark.full)])
def test_keys_picture_and_table(make_context, shape):
    model = battery.build("flow_vae", event_shape=shape, condition="label", num_labels=3)
    context = make_context(model, event_shape=shape)
    splits = {name: dataclasses.replace(split, y=np.arange(len(split)) % 3) for name, split in (
        ("train", context.dataset.train), ("test", context.dataset.test))}
    context.dataset = dataclasses.replace(context.dataset, **splits)
    model.count_labels(context.dataset.train.y)
    found = evaluate(context, ["labels"])
    assert 0 <= found["labels/accuracy"] <= 1 and found["labels/num_labels"] == 3
    # I(x; c) estimated and the nats of the label are one number but for the entropy of the labels.
    shares = np.bincount(context.dataset.train.y, minlength=3) / len(context.dataset.train.y)
    entropy = -np.mean(np.log(shares[context.dataset.test.y]))
    assert found["labels/information"] + found["labels/nll"] == pytest.approx(entropy, abs=1e-4)
    assert found["labels/majority/accuracy"] == np.mean(context.dataset.test.y == shares.argmax())
    assert found["labels/linear/seconds"] > 0
    rows = np.genfromtxt(context.run.workdir / "labels.csv", delimiter=",", names=True)
    assert len(rows) == len(context.dataset.test.y)
    assert np.mean(rows["label"] == rows["predicted"]) == pytest.approx(found["labels/accuracy"])
    assert (context.run.figures / "labels.png").stat().st_size > 5000


def test_a_model_without_labels_says_so(make_context):
    context = make_context(battery.build("vae", event_shape=(8, 8, 1)), event_shape=(8, 8, 1))
    assert evaluate(context, ["labels"]) == {"labels": UNSUPPORTED}
    assert "trained without labels" in context.notes[-1]
