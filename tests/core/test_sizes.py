"""Sizes that no memory holds are refused before they are built, with the flags behind them."""

import keras
import pytest
import tensorflow as tf
from battery import EVENT_SHAPE, ROWS, TOTAL_STEPS, hparams

from pae_zoo import apply, models, networks
from pae_zoo.core import reading, sizes
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch
from pae_zoo.networks import family

CONV = {
    "num_filters": dict(encoder="conv", decoder="conv"), "base_dim": dict(encoder="resnet_conv", decoder="resnet_conv"),
    "fc_dim": dict(encoder="resnet_conv", decoder="resnet_conv"),
    "dense_size": dict(encoder="resnet_fc", decoder="resnet_fc"),
}  # fmt: skip


def refused(params, event_shape, words):
    """Builds a model of which at most 2,000 weights can be afforded; they must be refused, and nothing left changed."""
    make, made = keras.layers.Layer.add_weight, []

    def counted(layer, shape=None, *args, **kwargs):
        weight = make(layer, shape, *args, **kwargs)
        made.append(int(tf.size(weight.value)))
        return weight

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.layers.Layer, "add_weight", counted)
        patch.setattr(reading, "available_memory", lambda: sizes.COPIES * 4 * 2000)
        with pytest.raises(UserError, match=words), sizes.affordable(params):
            models.find(params.model).MODEL.from_hparams(params, event_shape, TOTAL_STEPS)
        assert keras.layers.Layer.add_weight is counted and sum(made) <= 2000
    assert keras.layers.Layer.add_weight is make


def test_weights_beyond_memory_are_refused_unmade_for_every_model_and_network():
    for name in set(ROWS) - {"gp_circle"}:  # its latents are at most as many as the values of a datum
        refused(hparams(name, latent_dim=100), EVENT_SHAPE, r"training takes .* KiB.*Lower --latent_dim=100")
    for flag, kinds in CONV.items():
        refused(hparams("ae", **kinds, **{flag: 4000}), (8, 8, 1), f"Lower --{flag}=4000")


def test_more_parts_than_anybody_waits_for_are_refused(monkeypatch):
    monkeypatch.setattr(sizes, "MOST_WEIGHTS", 40)
    with pytest.raises(UserError, match="in 41 arrays: .*Lower --num_members=1000"):
        with sizes.affordable(params := hparams("ensemble_vae", num_members=1000)):
            models.find("ensemble_vae").MODEL.from_hparams(params, EVENT_SHAPE, TOTAL_STEPS)


def test_networks_of_more_layers_than_anybody_waits_for_are_refused(monkeypatch):
    monkeypatch.setattr(family, "MOST_LAYERS", 20)
    many = {"num_layers": 10, "block_per_scale": 5, "depth_per_block": 10, "num_scale": 12}
    for flag, value in many.items():
        kind = "resnet_fc" if flag == "num_layers" else "resnet_conv"
        with pytest.raises(UserError, match=f"more than 20 layers .*--{flag}"):
            networks.build_encoder(kind, (8, 8, 1), 2, **{flag: value})
    with pytest.raises(UserError, match="more than 20 layers .*fewer --hidden_units"):
        networks.build_decoder("mlp", (3,), 2, hidden_units=(8,) * 11)


def test_a_lack_of_memory_is_one_line_with_the_flags_that_are_large(capsys):
    def failing(error):
        def main(argv):
            launch.parse(apply.Flags, argv)
            raise error

        return main

    exhausted = tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nHint: a hint")
    for error in (MemoryError(), exhausted):
        for flags, words in ((["--importance_samples=1000000", "--seed=5"], "Lower --importance_samples=1000000. "),
                             ([], "Lower --batch_size, or take fewer data. ")):  # fmt: skip
            assert launch.run(failing(error), flags) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert "not enough memory" in line and words in line and "--seed" not in line
