"""Records of flags that more than one reader shares: those of every model, and of what draws at test."""

import dataclasses
from typing import Any

from pae_zoo.core import columns, optimizers
from pae_zoo.core.hparams import DATA, EVALUATION, NETWORK, RUN, TRAINING, option
from pae_zoo.core.values import MISSING, REFUSE

#: names of likelihoods, each added where it is registered
LIKELIHOODS: list[str] = []


#: values of --refine that refine codes, and all of them
REFINING = ("newton", "line_search")
REFINE = ("auto", "none", *REFINING)
#: formats of pictures
FIGURES = ("png", "pdf", "svg")
#: what may share the batches of a training
STRATEGIES = ("auto", "one", "mirrored", "multi_worker")


@dataclasses.dataclass(frozen=True)
class RefineFlags:
    """Whether codes are refined at test."""

    refine: str = option("auto", "Codes moved at test by Newton steps on log p(x, z): newton or line_search, wherever "
                         "codes are taken; auto: beside the model's own, in the tasks likelihood and amortisation.",
                         choices=REFINE, group=EVALUATION)
    refine_updates: int = option(2, "Steps of --refine.", low=1, high=1000, group=EVALUATION)


@dataclasses.dataclass(frozen=True)
class TaskFlags(RefineFlags):
    """What the training command and `pae_zoo.evaluate` share: the choice of tasks, and how codes are taken in them."""

    tasks: tuple[str, ...] = option((), "Evaluation tasks; empty: reconstruction, and likelihood where the model "
                                    "offers it.", group=EVALUATION)
    figure_format: str = option("png", "Files of pictures: png, or pdf or svg, whose lines and letters are sharp.",
                                choices=FIGURES, group=EVALUATION, aside=True)


@dataclasses.dataclass(frozen=True)
class PluginFlags:
    """What a command imports before anything else."""

    plugin: tuple[str, ...] = option((), "Modules to import first, which add models, networks, tasks or likelihoods by "
                                     "pae_zoo.register.", group=RUN, operational=True)


@dataclasses.dataclass(frozen=True)
class SampleFlags:
    """How often models and tasks draw where they are uncertain."""

    test_samples: int = option(50, "Networks, or latents of a datum, drawn by the tasks on uncertainty.",
                               low=1, high=100_000, group=EVALUATION, smoke=4)


@dataclasses.dataclass(frozen=True)
class SharedHParams(TaskFlags, PluginFlags, columns.ColumnOptions):
    """The flags that every model has; its networks and its tasks have more."""

    model: str = option("vae", "Model to train: the name of a module of pae_zoo/models.", group=RUN)
    workdir: str = option("", "Folder of the run; empty: runs/<model>/<dataset>/<seed>.", group=RUN, operational=True,
                         path=True)
    init_workdir: str = option("", "Finished run to start from: its weights initialise this one.", group=RUN, path=True)
    seed: int = option(0, "Chooses noise, initial weights and the order of data.", low=0, high=2**31 - 1, group=RUN)
    device: str = option("auto", "Where to compute; gpu is refused where there is none.",
                         choices=("auto", "cpu", "gpu"), group=RUN, operational=True)
    strategy: str = option("auto", "Devices that share each batch: one, mirrored (all of this machine), multi_worker "
                           "(the processes of TF_CONFIG); auto: what there is.",
                           choices=STRATEGIES, group=RUN, operational=True)
    precision: str = option("float32", "Keras dtype policy of the networks.",
                            choices=("float32", "mixed_bfloat16", "mixed_float16"), group=RUN)
    jit_compile: bool = option(True, "Compile with XLA (not where a CPU takes longer with it: convolutions, vlae, "
                               "few steps or data).", group=RUN)
    steps_per_call: int = option(0, "Most training steps in one compiled call (0: about two seconds' worth).",
                                 low=0, high=100_000, group=RUN, operational=True, smoke=4)
    resident_memory: int = option(2048, "MiB of data kept on the device; a larger set streams in the same order.",
                                  low=0, group=RUN, operational=True)
    checkpoint_seconds: float = option(60.0, "Least seconds between two checkpoints; the last is always written.",
                                       low=0.0, group=RUN, operational=True)
    keep_checkpoints: int = option(0, "Keep the weights after each of the last so many epochs, for `pae_zoo.evaluate "
                                   "--checkpoint=EPOCH` (0: those that are best and last).", low=0, group=RUN,
                                   operational=True, aside=True)
    smoke: bool = option(False, "Shrink everything to a run of seconds, to try a command.", group=RUN)
    verbosity: int = option(0, "1 shows TensorFlow's own messages.", low=-1, high=2, group=RUN, operational=True)

    dataset: str = option("digits", "Data set: a name, a file by its ending, csv:FILE, parquet:FILE, npy:FILE, "
                          "npz:FILE, windows:FILE, folder:DIR or tfds:NAME.", group=DATA, path=True)
    label_column: str = option("", "Column of a table whose values are labels.", group=DATA)
    columns: tuple[str, ...] = option((), "Columns of a table to keep, or with a minus, -a,-b, to leave out (empty: "
                                      "keep all).", group=DATA)
    categorical: tuple[str, ...] = option((), "Columns of a table that are categories though they look like numbers.",
                                          group=DATA)
    index_column: str = option("", "Column of a table that names its rows, and orders those of a series.", group=DATA)
    missing: str = option(REFUSE, "Empty cells of a table, NaN in arrays: refuse; or mask: the model sees the others, "
                          "and which they are.", choices=MISSING, group=DATA)
    window: int = option(0, "Rows T of a series that make one datum, (T, C) (0: each row is one).", low=0,
                         high=1_000_000, group=DATA)
    stride: int = option(0, "Rows from one window to the next (0: --window, without overlap).", low=0, high=1_000_000,
                         group=DATA)
    data_dir: str = option("", "Folder that holds data sets as files: <data_dir>/<name>/.", group=DATA,
                           operational=True, path=True)
    download: bool = option(True, "Whether tensorflow-datasets may download a set not found on disk.",
                            group=DATA, operational=True)
    classes: tuple[int, ...] = option((), "Keep only data of these labels, such as 0,5,7.", group=DATA)
    num_train: int = option(0, "Keep only so many training data (0: all).", low=0, group=DATA, smoke=256)
    num_train_per_class: int = option(0, "Keep only so many training data of each label (0: all).", low=0,
                                      group=DATA, aside=True)
    image_size: int = option(0, "Resize images to this many pixels a side (0: as they are).",
                             low=0, high=16_384, group=DATA)
    crop: str = option("", "Crop images first: 'height,width' centred, or 'top,left,height,width'.", group=DATA)
    grey: bool = option(False, "Turn colour images to grey.", group=DATA)
    invert: bool = option(False, "Replace pixels x by 1 - x.", group=DATA)
    preprocess: tuple[str, ...] = option(
        (), "Maps from data to what the networks see, in order, such as dequantise,logit,centre; none; empty: "
        "standardise for tables and windows of series, none elsewhere.", group=DATA)
    logit_margin: float = option(0.05, "Margin of the logit map: v = margin + (1 - 2 margin) u.",
                                 above=0.0, high=0.499, group=DATA)
    bad_files: int = option(0, "Most unreadable images of a folder that are left out instead of refused.", low=0,
                            high=1_000_000_000, group=DATA)
    augment: tuple[str, ...] = option((), "Augmentations of training images: rotate,flip,crop,pad_crop,"
                                      "brightness.", group=DATA)
    rotate_degrees: float = option(5.0, "Largest angle of the augmentation 'rotate'.", low=0.0, high=180.0, group=DATA)
    validation_fraction: float = option(1 / 12, "Share of the training data held out for validation.",
                                        above=0.0, high=0.5, group=DATA)

    latent_dim: int = option(16, "Size K of the latent space.", low=1, high=65_536, group=NETWORK)
    encoder: str = option("mlp", "Kind of the encoder network.", group=NETWORK)
    decoder: str = option("mlp", "Kind of the decoder network.", group=NETWORK)
    output: str = option("auto", "Last map of the decoder's means; auto: what the kind's paper used, if it fits "
                         "the data's range.", choices=("auto", "linear", "sigmoid", "sigmoid_centred"), group=NETWORK)
    likelihood: str = option("gaussian_learned", "Observation model p(x|z).",
                             choices=LIKELIHOODS, group=NETWORK)
    scale: float = option(0.1, "Observation std of gaussian and gaussian_pixel (the latter's is measured on "
                          "validation data after training).", above=0.0, group=NETWORK)

    epochs: int = option(50, "Passes over the training data.", low=1, group=TRAINING, operational=True, smoke=2)
    max_steps: int = option(0, "Training steps in all; overrides --epochs (0: off).", low=0, group=TRAINING)
    batch_size: int = option(128, "Data per training step.", low=1, group=TRAINING, smoke=32)
    optimizer: str = option("adam", "Optimizer of Keras.", choices=optimizers.OPTIMIZERS, group=TRAINING)
    ema: float = option(0.0, "Decay of averages of the weights, by which validation and the model go (0: none).",
                        low=0.0, high=0.999999, group=TRAINING)
    adam_epsilon: float = option(1e-7, "Epsilon of Adam.", above=0.0, group=TRAINING)
    adam_beta1: float = option(0.9, "Decay of Adam's mean of gradients.", low=0.0, high=0.999999,
                               group=TRAINING, aside=True)
    adam_beta2: float = option(0.999, "Decay of Adam's mean of squared gradients.", low=0.0, high=0.99999999,
                               group=TRAINING, aside=True)
    learning_rate: float = option(1e-3, "Initial learning rate.", above=0.0, group=TRAINING)
    lr_schedule: str = option(
        "constant", "Learning rate: constant; cosine to 0; late_cosine: that in the last fifth of the steps; step: a "
        "tenth after 80 % of the steps; exponential to a hundredth; restarts: cosines one after the other; piecewise: "
        "lower at each of --lr_drops; plateau: lower where the validation loss no longer falls.",
        choices=(*optimizers.SCHEDULES, optimizers.PLATEAU), group=TRAINING)
    lr_warmup: int = option(0, "First steps over which the learning rate rises linearly; the schedule has the others.",
                            low=0, group=TRAINING, aside=True)
    lr_factor: float = option(0.5, "plateau, piecewise: what the rate is multiplied by.", above=0.0, high=1.0,
                              group=TRAINING, aside=True)
    lr_patience: int = option(5, "plateau: epochs without a better validation loss that are borne.", low=0,
                              group=TRAINING, aside=True)
    lr_drops: tuple[int, ...] = option((20, 40, 60), "piecewise: where the rate drops, in percent of the steps.",
                                       group=TRAINING, aside=True)
    lr_period: int = option(0, "restarts: steps of the first cosine (0: a third of all).", low=0,
                            group=TRAINING, aside=True)
    lr_stretch: float = option(2.0, "restarts: how much longer each further cosine is.", low=1.0, high=1000.0,
                               group=TRAINING, aside=True)
    lr_floor: float = option(0.0, "Share of the rate that cosines end at.", low=0.0, high=1.0,
                             group=TRAINING, aside=True)
    weight_decay: float = option(0.0, "Decoupled weight decay.", low=0.0, group=TRAINING)
    clip_norm: float = option(0.0, "Largest global norm of the gradient (0: off).", low=0.0, group=TRAINING)
    clip_value: float = option(0.0, "Largest magnitude of a value of the gradient (0: off).", low=0.0,
                               group=TRAINING, aside=True)
    log_norms: bool = option(False, "Log the norms of gradients, before they are clipped, and of updates.",
                             group=TRAINING, aside=True)
    picture_epochs: int = option(0, "Show eight validation data, reconstructed, with standard deviations and samples, "
                                 "in TensorBoard after every so many epochs (0: never).", low=0, group=RUN,
                                 operational=True, aside=True)
    patience: int = option(0, "Stop after so many epochs without a better validation loss (0: off).", low=0,
                           group=TRAINING)


def with_default(name: str, default: Any, record: type = SharedHParams) -> Any:
    """Declares the hyper-parameter `name` of a record anew, with another default for one model."""
    field = next(f for f in dataclasses.fields(record) if f.name == name)
    return dataclasses.field(default=default, metadata=field.metadata)


def with_defaults(record: type, defaults: dict[str, Any]) -> type:
    """Returns the record with other defaults of some of its hyper-parameters, {name: default}."""
    types = {field.name: field.type for field in dataclasses.fields(record)}
    fields = [(name, types[name], with_default(name, default, record)) for name, default in defaults.items()]
    return dataclasses.make_dataclass(record.__name__, fields, bases=(record,), frozen=True)


def unread(name: str) -> Any:
    """Declares that one model does not read the shared hyper-parameter `name`: it keeps its default and is no flag."""
    field = next(f for f in dataclasses.fields(SharedHParams) if f.name == name)
    return dataclasses.field(default=field.default, metadata={**field.metadata, "flag": False})


def own_fields(cls: type) -> list[dataclasses.Field]:
    """Returns the fields of a record that a model alone has: those under no heading that others share."""
    return [field for field in dataclasses.fields(cls) if not field.metadata["group"]]
