"""The parts of a model that flags describe: networks, output range, preprocessing."""

import dataclasses
from typing import Any, Optional

import keras

from pae_zoo import likelihoods, networks
from pae_zoo.core import columns, seeds
from pae_zoo.core.errors import UserError
from pae_zoo.core.values import MASK
from pae_zoo.data import preprocessing


def parts(
    hparams: Any, event_shape: tuple[int, ...], member: int = 0, codes_only: bool = False
) -> tuple[keras.Model, keras.Model, keras.layers.Layer]:
    """Returns (encoder, decoder, preprocessing) for data of shape `event_shape`; raises UserError.

    The networks of `member` 1, 2, ... have the same layers with other names and other initial weights. With
    `codes_only` the encoder gives K numbers, no raw scales beside them.
    """
    chain = chain_of(hparams, event_shape)
    # A latent as wide as the data is legal; a network kind refuses shapes it cannot take.
    encoder = networks.build_encoder(
        hparams.encoder, event_shape, name=_name("encoder", member), deterministic=codes_only,
        missing=hparams.missing == MASK, **_options(hparams, member))
    return encoder, decoder(hparams, event_shape, member, chain), chain


def chain_of(hparams: Any, event_shape: tuple[int, ...]) -> preprocessing.Chain:
    """Returns the preprocessing that the flags describe; raises UserError.

    Vectors and series are in any unit, so that no deviation of theirs is too small to be one.
    """
    options: dict[str, Any] = {"std_floor": 0.0} if len(event_shape) < 3 else {}
    if hparams.column_kinds and len(event_shape) == 1:
        options["which"] = [one.kind == columns.REAL for one in columns.stretches(hparams.column_kinds, *event_shape)
                            for _ in range(one.start, one.stop)]  # fmt: skip
    return preprocessing.build_chain(hparams.preprocess, margin=hparams.logit_margin, **options)


def decoder(
    hparams: Any, event_shape: tuple[int, ...], member: int = 0, chain: Optional[preprocessing.Chain] = None
) -> keras.Model:
    """Returns the decoder of `member` alone; `chain` is the preprocessing, where it is at hand."""
    if chain is None:
        chain = chain_of(hparams, event_shape)
    value_range = chain.value_range((0.0, 1.0)) if len(event_shape) == 3 else None
    return networks.build_decoder(
        hparams.decoder,
        event_shape,
        name=_name("decoder", member),
        **_options(hparams, member),
        channels_factor=likelihoods.channels_factor(hparams.likelihood),
        output=output_map(hparams.output, hparams.decoder, hparams.likelihood, value_range),
    )


def _options(hparams, member: int) -> dict[str, Any]:
    shared = {f.name for f in dataclasses.fields(networks.NetworkConfig)} & set(vars(hparams))
    options = {name: getattr(hparams, name) for name in shared}
    return {**options, "seed": seeds.integer(hparams.seed, member)} if member else options


def _name(role: str, member: int) -> str:
    return f"{role}_{member}" if member else role


def output_map(asked: str, kind: str, likelihood: str, value_range: Optional[tuple[float, float]]) -> str:
    """Returns the decoder's last map: 'linear', 'sigmoid' or 'sigmoid_centred'.

    Bernoulli takes logits, and likelihoods of counts logs, so it is linear for them. 'auto' takes what the kind's
    paper used, if the data's range is [0, 1] (sigmoid) or [-1/2, 1/2] (sigmoid_centred), and linear otherwise. Raises
    UserError when the range asked for cannot hold the data.
    """
    if likelihoods.is_linear(likelihood):
        if asked not in ("auto", "linear"):
            what = "logits" if likelihood == "bernoulli" else "logs of means"
            raise UserError(f"--output={asked} does not go with --likelihood={likelihood}, which takes {what}; "
                            "use --output=linear or leave it out.")
        return "linear"
    known: dict[tuple[float, ...], str] = {(0.0, 1.0): "sigmoid", (-0.5, 0.5): "sigmoid_centred"}
    fitting = known.get(value_range or ())
    if asked == "auto":
        if kind not in networks.DEFAULT_OUTPUT:  # an unknown kind is told by the network builder
            return "linear"
        return fitting if fitting and networks.DEFAULT_OUTPUT[kind] != "linear" else "linear"
    if asked != "linear" and asked != fitting:
        raise UserError(f"--output={asked} cannot reach data in the range {value_range or 'of all reals'}; "
                        f"allowed here: linear{', ' + fitting if fitting else ''}.")
    return asked
