"""Hyper-parameters: a field of a dataclass is an absl flag and a key of config.json.

A model's module defines `HParams(SharedHParams)` with its own fields; nothing else has to be edited.
"""

import dataclasses
import math
import os
import re
import typing
from typing import Any, Optional, Sequence

from absl import flags

from pae_zoo.core.errors import UserError, suggestion

# Largest whole number of a flag that names no other, and the magnitudes that float32 holds in full precision.
MOST, SMALLEST, LARGEST = 2**31 - 1, 1.2e-38, 3.4e38
#: most widths of hidden layers
MOST_LAYERS = 200


def option(default: Any, help: str, *, low=None, above=None, high=None, choices=None, group="",
           operational=False, smoke=None, path=False) -> Any:
    """Declares one hyper-parameter of a dataclass.

    Args:
      default: its default; tuples become comma-separated flags.
      help: one sentence for `--helpfull`.
      low, high: inclusive bounds; above: exclusive lower bound; choices: the allowed words.
      group: heading under which `--helpfull` lists it.
      operational: True for what does not change the result, so that a resumed run may change it.
      smoke: the most that --smoke leaves of a number, or of each number of a tuple; None: all of it.
      path: whether it names a file or folder, alone or as in npz:FILE, so that a leading ~ stands for a home folder.
    """
    if isinstance(default, int) and not isinstance(default, bool) and high is None and not choices:
        high = MOST
    metadata = dict(help=help, low=low, above=above, high=high, choices=choices, group=group,
                    operational=operational, smoke=smoke, path=path)
    return dataclasses.field(default=default, metadata=metadata)


RUN, DATA, NETWORK, TRAINING, EVALUATION = (
    "Run", "Data", "Networks and likelihood", "Training", "Evaluation",
)

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop")
SCHEDULES = ("constant", "cosine", "step", "exponential")


@dataclasses.dataclass(frozen=True)
class RestorationFlags:
    """The flags of inpainting and denoising, which the evaluation tasks and `pae_zoo.apply` share."""

    mask: str = option("", "What is hidden: none, columns:0-13, rows:8-15, rectangle:TOP,LEFT,HEIGHT,WIDTH, "
                       "pixels:0.95 (share hidden at random), or a file (.npy, .npz, .png; 1 or white is seen).",
                       group=EVALUATION, path=True)
    noise: float = option(0.0, "Std of the Gaussian noise in the data to be restored, for pixels in [0, 1].", low=0.0,
                          group=EVALUATION)
    restoration_starts: int = option(8, "Prior draws that the search of the maximum starts from, besides the encoding.",
                                     low=0, high=10_000, group=EVALUATION, smoke=1)
    restoration_posterior: str = option(
        "mixture", "What restorations are drawn from: Laplace at the maximum, a mixture over the maxima, or NUTS.",
        choices=("laplace", "mixture", "nuts"), group=EVALUATION)
    restoration_draws: int = option(200, "Posterior draws of each datum behind its mean and std (nuts: of each of 4 "
                                    "chains).", low=4, high=1_000_000, group=EVALUATION, smoke=8)


@dataclasses.dataclass(frozen=True)
class EvaluationFlags(RestorationFlags):
    """The flags of the evaluation tasks, which the training command and `pae_zoo.evaluate` share."""

    tasks: tuple[str, ...] = option((), "Evaluation tasks; empty: reconstruction, and likelihood where the model "
                                    "offers it.", group=EVALUATION)
    ood_datasets: tuple[str, ...] = option(
        (), "Sets for the task ood, in the grammar of --dataset, plus constant, noise, hflip, vflip (empty: these "
        "four).", group=EVALUATION, path=True)
    amortisation_images: int = option(200, "Test data whose posteriors the task amortisation optimises one by one.",
                                      low=1, group=EVALUATION, smoke=4)
    curvature_images: int = option(1000, "Training data on which the task curvature compares its methods.", low=1,
                                   group=EVALUATION, smoke=64)
    restoration_images: int = option(64, "Test data that the task restoration restores.", low=1, group=EVALUATION,
                                     smoke=4)
    frechet_samples: int = option(
        10_000, "Images on each side of a Frechet distance (fewer where the test split has fewer).", low=2,
        group=EVALUATION, smoke=128)
    fid_weights: str = option("", "File of the feature network: Inception's .h5 or .pb, or .npz of tools/"
                              "train_features.py (empty: the data set's own).", group=EVALUATION, path=True)
    fid_min_max: bool = option(False, "Stretch each image to [0, 1] before its features, as the PAE paper's notebooks "
                               "did.", group=EVALUATION)
    importance_samples: int = option(100, "Samples per datum of the importance-sampled likelihood.",
                                     low=1, high=10_000_000, group=EVALUATION, smoke=8)
    test_samples: int = option(50, "Networks, or latents of a datum, drawn by the tasks on uncertainty.",
                               low=1, high=100_000, group=EVALUATION, smoke=4)
    ood_bootstrap: int = option(200, "Resamples behind the 95 % intervals of the task ood (0: none).",
                                low=0, high=1_000_000, group=EVALUATION, smoke=20)
    imputation_masks: tuple[str, ...] = option(
        ("full", "noise", "half", "region", "pixels:0.5"), "What the task imputation hides: full (nothing), noise "
        "(everything), half (the top), region (a block in the middle), or the grammar of --mask.", group=EVALUATION)
    imputation_samples: int = option(10, "Images that the task imputation gives for each datum.", low=1, high=10_000,
                                     group=EVALUATION, smoke=3)
    imputation_rounds: int = option(0, "Rounds of reconstructing and refilling each of these images before the last "
                                    "pass.", low=0, high=1000, group=EVALUATION, smoke=1)
    imputation_images: int = option(1000, "Test data of the task imputation.", low=1, group=EVALUATION, smoke=16)
    labels_per_class: tuple[int, ...] = option(
        (1, 2, 4, 6, 8, 10, 15, 25, 50, 100), "Labels per class of the task downstream.", group=EVALUATION, smoke=6)
    embeddings: int = option(100, "Draws of the code of each labelled datum in the task downstream.",
                             low=1, high=10_000, group=EVALUATION, smoke=5)
    downstream_repeats: int = option(5, "Choices of the labelled data in the task downstream.",
                                     low=1, high=10_000, group=EVALUATION, smoke=2)
    downstream_images: int = option(5000, "Test data that the task downstream classifies.", low=1, group=EVALUATION,
                                    smoke=200)
    geodesic_pairs: int = option(8, "Pairs of test data that the task geodesics joins.", low=1, group=EVALUATION,
                                 smoke=2)
    pair_seed: int = option(67, "Chooses the test data of the tasks geodesics, distance_stability and clustering: the "
                            "same for all models and for every --seed.", low=0, high=2**31 - 1, group=EVALUATION)
    geodesic_energy: str = option(
        "auto", "What geodesics minimise; auto: decorrelated for ensembles and drawn decoders, coupled for a mean with "
        "a std, mean for a single decoder.", choices=("auto", "decorrelated", "coupled", "mean"), group=EVALUATION)
    geodesic_members: int = option(10, "Decoders drawn behind the geometry of a model that draws them; an ensemble has "
                                   "all of its own.", low=1, high=10_000, group=EVALUATION, smoke=3)
    geodesic_points: int = option(64, "Points of a curve on which its energy is computed.",
                                  low=3, high=100_000, group=EVALUATION, smoke=16)
    geodesic_reference: int = option(256, "Points R that the decorrelated energy refers to, whatever "
                                     "--geodesic_points: uncertainty counts in proportion to their square.",
                                     low=1, high=1_000_000, group=EVALUATION)
    geodesic_steps: int = option(0, "Most steps of the search for a geodesic (0: 200 of Gauss-Newton, 400 with "
                                 "more than four latents; 500 of Adam, which decoders without features take).",
                                 low=0, high=1_000_000, group=EVALUATION, smoke=20)
    geodesic_init: str = option(
        "both", "Where a search starts: the straight line, the shortest path of a graph over the latents, or both, of "
        "which the lower energy counts.", choices=("line", "graph", "both"), group=EVALUATION)
    stability_pairs: int = option(50, "Pairs of test data whose distances the task distance_stability compares.", low=3,
                                  group=EVALUATION, smoke=4)
    stability_published: int = option(0, "Points of the length as published (arXiv 2408.07507), which grows with them, "
                                      "in the task distance_stability: 4096 there (0: leave it out).",
                                      low=0, high=10_000_000, group=EVALUATION)
    stability_unconverged: str = option(
        "exclude", "Pairs whose geodesic did not converge in every run: exclude them from all columns, or keep them.",
        choices=("exclude", "keep"), group=EVALUATION, operational=True)
    stability_dir: str = option("", "Folder of what distance_stability finds over runs; empty: distance_stability in "
                                "the folder that holds the runs.", group=EVALUATION, operational=True, path=True)
    cluster_points: int = option(60, "Test data that the task clustering clusters.",
                                 low=2, high=10_000, group=EVALUATION, smoke=24)


@dataclasses.dataclass(frozen=True)
class SharedHParams(EvaluationFlags):
    """The flags that every model has."""

    model: str = option("vae", "Model to train: the name of a module of pae_zoo/models.", group=RUN)
    workdir: str = option("", "Folder of the run; empty: runs/<model>/<dataset>/<seed>.", group=RUN, operational=True,
                         path=True)
    init_workdir: str = option("", "Finished run to start from: its weights initialise this one.", group=RUN, path=True)
    seed: int = option(0, "Chooses noise, initial weights and the order of data.", low=0, high=2**31 - 1, group=RUN)
    device: str = option("auto", "Where to compute; gpu is refused where there is none.",
                         choices=("auto", "cpu", "gpu"), group=RUN, operational=True)
    precision: str = option("float32", "Keras dtype policy of the networks.",
                            choices=("float32", "mixed_bfloat16", "mixed_float16"), group=RUN)
    jit_compile: bool = option(True, "Compile the training step with XLA (not where a CPU is slower with it: "
                               "convolutions, vlae).", group=RUN)
    steps_per_call: int = option(0, "Most training steps in one compiled call (0: about two seconds' worth).",
                                 low=0, high=100_000, group=RUN, operational=True, smoke=4)
    resident_memory: int = option(2048, "MiB of data kept on the device; a larger set streams in the same order.",
                                  low=0, group=RUN, operational=True)
    checkpoint_seconds: float = option(60.0, "Least seconds between two checkpoints; the last is always written.",
                                       low=0.0, group=RUN, operational=True)
    smoke: bool = option(False, "Shrink everything to a run of seconds, to try a command.", group=RUN)
    verbosity: int = option(0, "1 shows TensorFlow's own messages.", low=-1, high=2, group=RUN, operational=True)

    dataset: str = option("digits", "Data set: a name, npz:FILE, folder:DIR or tfds:NAME.", group=DATA, path=True)
    data_dir: str = option("", "Folder that holds data sets as files: <data_dir>/<name>/.", group=DATA,
                           operational=True, path=True)
    download: bool = option(True, "Whether tensorflow-datasets may download a set not found on disk.",
                            group=DATA, operational=True)
    classes: tuple[int, ...] = option((), "Keep only data of these labels, such as 0,5,7.", group=DATA)
    num_train: int = option(0, "Keep only so many training data (0: all).", low=0, group=DATA, smoke=256)
    image_size: int = option(0, "Resize images to this many pixels a side (0: as they are).",
                             low=0, high=16_384, group=DATA)
    crop: str = option("", "Crop images first: 'height,width' centred, or 'top,left,height,width'.", group=DATA)
    grey: bool = option(False, "Turn colour images to grey.", group=DATA)
    invert: bool = option(False, "Replace pixels x by 1 - x.", group=DATA)
    preprocess: tuple[str, ...] = option(
        (), "Maps from pixels to what the networks see, in order, such as dequantise,logit,centre.", group=DATA)
    logit_margin: float = option(0.05, "Margin of the logit map: v = margin + (1 - 2 margin) u.",
                                 above=0.0, high=0.499, group=DATA)
    augment: tuple[str, ...] = option((), "Augmentations of training images: rotate,flip,crop,brightness.", group=DATA)
    rotate_degrees: float = option(5.0, "Largest angle of the augmentation 'rotate'.", low=0.0, high=180.0, group=DATA)
    validation_fraction: float = option(1 / 12, "Share of the training data held out for validation.",
                                        above=0.0, high=0.5, group=DATA)

    latent_dim: int = option(16, "Size K of the latent space.", low=1, high=65_536, group=NETWORK)
    encoder: str = option("mlp", "Kind of the encoder network.", group=NETWORK)
    decoder: str = option("mlp", "Kind of the decoder network.", group=NETWORK)
    hidden_units: tuple[int, ...] = option((512, 256), "Widths of dense hidden layers, from the data inwards.",
                                           low=1, high=2**20, group=NETWORK, smoke=32)
    activation: str = option("relu", "Activation of hidden layers, a Keras name.", group=NETWORK)
    num_filters: int = option(32, "conv: filters of the first layer.", low=1, high=65_536, group=NETWORK, smoke=4)
    num_levels: int = option(0, "conv: halvings of the image side (0: 3 from 64 pixels on, else 2).",
                             choices=(0, 2, 3), group=NETWORK)
    conv_bias: bool = option(False, "conv: biases in the layers that a normalisation follows; lae_mnist, lae_svhn: in "
                             "all convolutions.", group=NETWORK)
    spectral_norm: bool = option(True, "infogan: divide the encoder's kernels by their spectral norm.", group=NETWORK)
    dense_size: int = option(256, "resnet_fc: width.", low=1, high=2**20, group=NETWORK, smoke=16)
    num_layers: int = option(4, "resnet_fc: residual blocks.", low=1, high=500, group=NETWORK)
    base_dim: int = option(16, "resnet_conv: channels at full resolution.", low=1, high=65_536, group=NETWORK, smoke=4)
    kernel_size: int = option(3, "resnet_conv: side of the kernels.", low=1, high=1000, group=NETWORK)
    num_scale: int = option(4, "resnet_conv: scales of the encoder.", low=1, high=16, group=NETWORK)
    block_per_scale: int = option(1, "resnet_conv: residual blocks at each scale.", low=1, high=100, group=NETWORK)
    depth_per_block: int = option(2, "resnet_conv: layers in a residual block.", low=1, high=100, group=NETWORK)
    fc_dim: int = option(512, "resnet_conv: width of the encoder's dense block.",
                         low=1, high=2**20, group=NETWORK, smoke=16)
    batch_norm: str = option("affine", "Batch normalisation of infogan, conv and resnet_conv: affine (as published), "
                             "batch or none.", choices=("affine", "batch", "none"), group=NETWORK)
    dropout_rate: float = option(0.0, "Dropout of the networks that have it.", low=0.0, high=0.95, group=NETWORK)
    output: str = option("auto", "Last map of the decoder's means; auto: what the kind's paper used, if it fits "
                         "the data's range.", choices=("auto", "linear", "sigmoid", "sigmoid_centred"), group=NETWORK)
    init: str = option("default", "Initial weights of the network kind 'vlae': default (intended gain) or upstream.",
                       choices=("default", "upstream"), group=NETWORK)
    likelihood: str = option("gaussian_learned", "Observation model p(x|z).",
                             choices=("gaussian", "gaussian_learned", "gaussian_pixel", "gaussian_decoder",
                                      "bernoulli"), group=NETWORK)
    scale: float = option(0.1, "Observation std of gaussian and gaussian_pixel (the latter's is measured on "
                          "validation data after training).", above=0.0, group=NETWORK)

    epochs: int = option(50, "Passes over the training data.", low=1, group=TRAINING, operational=True, smoke=2)
    max_steps: int = option(0, "Training steps in all; overrides --epochs (0: off).", low=0, group=TRAINING)
    batch_size: int = option(128, "Data per training step.", low=1, group=TRAINING, smoke=32)
    optimizer: str = option("adam", "Optimizer of Keras.", choices=OPTIMIZERS, group=TRAINING)
    adam_epsilon: float = option(1e-7, "Epsilon of Adam.", above=0.0, group=TRAINING)
    learning_rate: float = option(1e-3, "Initial learning rate.", above=0.0, group=TRAINING)
    lr_schedule: str = option("constant", "Learning rate: constant; cosine to 0; step: a tenth after 80 % of the "
                              "steps; exponential to a hundredth.", choices=SCHEDULES, group=TRAINING)
    weight_decay: float = option(0.0, "Decoupled weight decay.", low=0.0, group=TRAINING)
    clip_norm: float = option(0.0, "Largest global norm of the gradient (0: off).", low=0.0, group=TRAINING)
    patience: int = option(0, "Stop after so many epochs without a better validation loss (0: off).", low=0,
                           group=TRAINING)


def with_default(name: str, default: Any) -> Any:
    """Declares the shared hyper-parameter `name` anew, with another default for one model."""
    field = next(f for f in dataclasses.fields(SharedHParams) if f.name == name)
    return dataclasses.field(default=default, metadata=field.metadata)


def own_fields(cls) -> list[dataclasses.Field]:
    """Returns the fields that a model's HParams adds to the shared ones."""
    shared = {f.name for f in dataclasses.fields(SharedHParams)}
    return [f for f in dataclasses.fields(cls) if f.name not in shared]


# ---- flags -----------------------------------------------------------------------------------------


class _IntListParser(flags.ListParser):
    """Parses comma-separated integers."""

    def parse(self, argument):
        if isinstance(argument, (list, tuple)):
            return list(argument)
        words = [w.strip() for w in argument.split(",") if w.strip()]
        try:
            return [int(w) for w in words]
        except ValueError:
            raise ValueError(f"a comma-separated list of integers is needed, such as 0,5,7; received {argument!r}")


class _WordListParser(flags.ListParser):
    """Parses comma-separated words, none of them empty."""

    def parse(self, argument):
        if isinstance(argument, (list, tuple)):
            return list(argument)
        return [w.strip() for w in argument.split(",") if w.strip()]


def define_flags(cls, values: flags.FlagValues) -> None:
    """Declares one absl flag per field of the dataclass `cls` in `values`."""
    for field in dataclasses.fields(cls):
        kind = field.type if not isinstance(field.type, str) else typing.get_type_hints(cls)[field.name]
        text, name, default = field.metadata["help"], field.name, field.default
        if kind is bool:
            flags.DEFINE_boolean(name, default, text, flag_values=values)
        elif kind is int:
            flags.DEFINE_integer(name, default, text, flag_values=values)
        elif kind is float:
            flags.DEFINE_float(name, default, text, flag_values=values)
        elif kind is str:
            flags.DEFINE_string(name, default, text, flag_values=values)
        else:
            parser = _IntListParser() if typing.get_args(kind)[0] is int else _WordListParser()
            flags.DEFINE(parser, name, list(default), text, flag_values=values, serializer=flags.CsvListSerializer(","))


def from_flags(cls, values: flags.FlagValues):
    """Returns an instance of `cls` from parsed flags, checked; raises UserError."""
    found = {}
    for field in dataclasses.fields(cls):
        value = values[field.name].value
        found[field.name] = tuple(value) if isinstance(value, list) else value
    return check(_at_home(cls(**found)))


def expand(path: str, flag: str) -> str:
    """Returns `path`, or a word such as npz:FILE, with a home folder for a leading ~; raises UserError for nobody's."""
    kind, tilde, rest = re.fullmatch(r"((?:\w+:)?)(~?)(.*)", path, re.DOTALL).groups()
    if not tilde:
        return path
    home = os.path.expanduser(tilde + rest)
    if home.startswith("~"):
        raise UserError(f"--{flag}={path}: there is no home folder {home.split('/')[0]}. Write the path in full, or "
                        "./~ for a name that begins so.")
    return kind + home


def _at_home(hparams):
    """Returns `hparams` with home folders for the leading ~ of paths."""
    found = {}
    for name in (field.name for field in dataclasses.fields(hparams) if field.metadata["path"]):
        value = getattr(hparams, name)
        found[name] = expand(value, name) if isinstance(value, str) else tuple(expand(one, name) for one in value)
    return dataclasses.replace(hparams, **found)


def check(hparams):
    """Returns `hparams` if every field lies in its range; raises UserError naming the first that does not."""
    for field in dataclasses.fields(hparams):
        value, rule = getattr(hparams, field.name), field.metadata
        items = value if isinstance(value, tuple) else (value,)
        for item in [item for item in items if isinstance(item, (int, float)) and not isinstance(item, bool)]:
            if isinstance(item, float) and not math.isfinite(item):
                raise UserError(f"--{field.name}={item} is not a finite number; {allowed_range(field)}.")
            outside = (
                (rule["low"] is not None and item < rule["low"])
                or (rule["above"] is not None and item <= rule["above"])
                or (rule["high"] is not None and item > rule["high"])
            )
            if outside:
                raise UserError(f"--{field.name}={item} is out of range; {allowed_range(field)}.")
            if isinstance(item, float) and item and not SMALLEST <= abs(item) <= LARGEST:
                raise UserError(f"--{field.name}={item} is out of range; allowed: 0 and magnitudes from {SMALLEST} to "
                                f"{LARGEST}, those of float32.")
        if any(isinstance(item, int) and abs(item) >= 2**63 for item in items):
            raise UserError(f"--{field.name}={value} is out of range; allowed: whole numbers below 2^63.")
        if any(isinstance(item, str) and "\0" in item for item in items):
            raise UserError(f"--{field.name}={value!r} holds a NUL byte; give it without.")
        if rule["choices"] and value not in rule["choices"]:
            raise UserError(f"--{field.name}={value!r} is unknown; allowed: {', '.join(map(str, rule['choices']))}"
                            f"{suggestion(value, rule['choices'])}.")
    for name in ("hidden_units", "flow_units"):
        if len(getattr(hparams, name, ())) > MOST_LAYERS:
            raise UserError(f"--{name} lists {len(getattr(hparams, name))} widths; allowed: at most {MOST_LAYERS}.")
    return hparams


def allowed_range(field: dataclasses.Field) -> str:
    """Returns the range of a field in words, '' if it has none."""
    rule = field.metadata
    parts = []
    if rule["low"] is not None:
        parts.append(f"at least {rule['low']}")
    if rule["above"] is not None:
        parts.append(f"above {rule['above']}")
    if rule["high"] is not None:
        parts.append(f"at most {rule['high']}")
    return "allowed: " + " and ".join(parts) if parts else ""


def to_config(hparams) -> dict[str, Any]:
    """Returns the hyper-parameters as plain values for config.json."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(hparams).items()}


def from_config(cls, config: dict[str, Any]):
    """Rebuilds an instance of `cls` from `to_config`'s values; raises UserError for unknown keys and other types."""
    kinds = typing.get_type_hints(cls)
    unknown = sorted(set(config) - {f.name for f in dataclasses.fields(cls)})
    if unknown:
        raise UserError(f"config.json has keys that {config.get('model', 'this model')} does not know: "
                        f"{', '.join(unknown)}. It was written by another version of pae_zoo; train anew.")
    found = {name: _typed(name, kinds[name], value) for name, value in config.items()}
    return check(_at_home(cls(**found)))


#: what config.json may hold for a field of a type, and how that is called
_JSON_TYPES = {bool: ((bool,), "true or false"), int: ((int,), "a whole number"), float: ((int, float), "a number"),
               str: ((str,), "a text")}


def _typed(name: str, kind: type, value: Any) -> Any:
    """Returns a value of config.json as the field's type; raises UserError for one of another type."""
    if kind in _JSON_TYPES:
        types, words = _JSON_TYPES[kind]
        right = isinstance(value, types) and (kind is bool or not isinstance(value, bool))
        right = right and (not isinstance(value, int) or abs(value) < 2**63)  # what float() takes
    else:
        types, words = _JSON_TYPES[typing.get_args(kind)[0]]
        right = isinstance(value, (list, tuple)) and all(type(item) in types for item in value)
        words = f"a list, each of it {words}"
    if not right:
        raise UserError(f"{name} is {value!r}, not {words}. Restore the file, or train anew.")
    return tuple(value) if isinstance(value, (list, tuple)) else kind(value)


def flagfile_lines(hparams) -> list[str]:
    """Returns the lines of a flagfile that repeats the run: every flag that is not at its default."""
    lines = [f"--model={hparams.model}"]
    for field in dataclasses.fields(hparams):
        value = getattr(hparams, field.name)
        if field.name in ("model", "workdir") or value == field.default:
            continue
        if isinstance(value, bool):
            lines.append(f"--{'' if value else 'no'}{field.name}")
        else:
            lines.append(f"--{field.name}={','.join(map(str, value)) if isinstance(value, tuple) else value}")
    return lines


def differences(old, new) -> list[str]:
    """Returns 'name: old -> new' for each hyper-parameter that would change the result of a run."""
    found = []
    for field in dataclasses.fields(new):
        before, after = getattr(old, field.name, None), getattr(new, field.name)
        if before != after and not field.metadata["operational"]:
            found.append(f"{field.name}: {before!r} -> {after!r}")
    return found


def smoke(hparams):
    """Returns `hparams` shrunk to a run of seconds; what was set below the fields' smoke limits stays."""
    changed = {}
    for field in dataclasses.fields(hparams):
        limit, value = field.metadata["smoke"], getattr(hparams, field.name)
        if limit is None:
            continue
        # 0 means "all" or "automatic" for some of them.
        small = tuple(min(width, limit) for width in value) if isinstance(value, tuple) else min(value or limit, limit)
        changed[field.name] = small
    if hparams.max_steps:
        changed["max_steps"] = min(hparams.max_steps, 16)
    return dataclasses.replace(hparams, **changed)


def help_text(cls, values: Optional[Sequence[dataclasses.Field]] = None) -> str:
    """Returns the flags of `cls` under their headings, each with default, range and help."""
    own = {f.name for f in own_fields(cls)} if issubclass(cls, SharedHParams) else set()
    groups: dict[str, list[str]] = {}
    for field in dataclasses.fields(cls):
        rule, default = field.metadata, field.default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        flag = f"--[no]{field.name}" if isinstance(default, bool) else f"--{field.name}={shown}"
        notes = [", ".join(map(str, rule["choices"]))] if rule["choices"] else []
        notes += [allowed_range(field)] if allowed_range(field) else []
        if isinstance(default, bool):
            notes.append(f"default: {default}")
        note = f" ({'; '.join(notes)})" if notes else ""
        group = "Model" if field.name in own else (rule["group"] or "Flags")
        groups.setdefault(group, []).append(f"  {flag}\n      {rule['help']}{note}")
    order = [g for g in ("Model", RUN, DATA, NETWORK, TRAINING, EVALUATION, "Flags") if g in groups]
    order += [g for g in groups if g not in order]
    return "\n\n".join(f"{name}:\n" + "\n".join(groups[name]) for name in order)
