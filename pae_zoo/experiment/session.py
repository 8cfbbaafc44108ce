"""One training command from flags to finished run, fresh, resumed or already done: `finish` lists its steps."""

import dataclasses
import statistics
import time
from collections.abc import Collection
from types import ModuleType
from typing import Any, Sequence

import numpy as np

from pae_zoo import data, evaluation, likelihoods
from pae_zoo.core import hparams as hp
from pae_zoo.core import labels as conditions
from pae_zoo.core import optimizers, records, sizes
from pae_zoo.core.errors import UserError
from pae_zoo.core.trainable import Trainable
from pae_zoo.core.values import MASK
from pae_zoo.data.pipelines import Feed
from pae_zoo.experiment import checkpoint, cluster, console, fitting, launch, watching
from pae_zoo.experiment import record as records_of
from pae_zoo.experiment.checkpoint import Position
from pae_zoo.experiment.workdir import FORMAT, Run
from pae_zoo.models.base import Autoencoder, Stage

# Most labels of a condition: more are numbers of another kind, such as years or identities.
MOST_CONDITIONS = 1000
# Shared training flags belong to the first stage; a later one starts from these and its own settings.
NEUTRAL = dict(max_steps=0, optimizer="adam", lr_schedule="constant", weight_decay=0.0, clip_norm=0.0, patience=0,
               ema=0.0, keep_checkpoints=0, clip_value=0.0, adam_beta1=0.9, adam_beta2=0.999, lr_warmup=0,
               lr_floor=0.0, log_norms=False, picture_epochs=0)


@dataclasses.dataclass
class Session:
    """Everything that one command works with."""

    hparams: Any
    run: Run
    dataset: Any
    model: Any
    feed: Feed
    device: str
    starts: Sequence[Autoencoder] = ()  # the models of finished runs to start from, until their weights are taken
    shared: cluster.Shared = cluster.Shared()


def prepare(hparams: Any, module: ModuleType) -> Session:
    """Checks everything that can be wrong before anything is written; raises UserError."""
    run = Run(hparams.workdir)
    launch.works_in(run.workdir)
    run.prepare()
    _check_same(run, hparams, module.MODEL)
    evaluation.check(hparams)
    evaluation.check_refine(hparams, module.MODEL)
    optimizers.check(hparams)
    if hparams.missing == MASK:
        module.MODEL.check_gaps()
    device = launch.set_device(hparams.device, hparams.precision)
    shared = cluster.start(hparams.strategy, hparams.device, hparams.batch_size)
    dataset = run.as_trained(launch.load_dataset(hparams))
    watching.check_pictures(hparams.picture_epochs, dataset.event_shape)
    data.check_steps(dataset, hparams.preprocess, hparams.augment, hparams.likelihood)
    augment = data.build_augmentation(hparams.augment, rotate_degrees=hparams.rotate_degrees)
    steps = fitting.total_steps(hparams, len(dataset.train.x) // _batch_size(hparams, len(dataset.train.x)))
    evaluation.check_data(hparams, tasks_of(hparams, module.MODEL), dataset)
    with sizes.affordable(hparams), shared.scope():
        model = module.MODEL.from_hparams(_for_data(hparams, dataset), dataset.event_shape, steps)
    starts = _starts(hparams, run, model)
    labels = (dataset.train.y, dataset.valid.y) if model.num_labels else None
    feed = _feed(model, dataset.train.x, dataset.valid.x, hparams, augment, labels)
    cluster.check_same(shared, hparams, dataset)
    return Session(hparams, run, dataset, model, feed, f"{device}{shared}", starts, shared)


def _starts(hparams, run: Run, model: Autoencoder) -> list[Autoencoder]:
    """Returns the models that a fresh run starts from, none without them; raises UserError where one does not fit."""
    workdirs = type(model).starts(hparams)
    if not workdirs or run.has_checkpoint:
        return []
    starts = [Run(workdir).load_model() for workdir in workdirs]
    model.check_starts(starts)
    return starts


def _for_data(hparams: Any, dataset: data.Dataset) -> Any:
    """Returns the record with what the table says of its columns, where nobody else does."""
    kinds = hparams.column_kinds or (() if dataset.table is None else dataset.table.kinds)
    likelihood = likelihoods.of_columns(hparams.likelihood, kinds)
    found = dataclasses.replace(hparams, column_kinds=kinds, likelihood=likelihood)
    if getattr(hparams, "condition", conditions.NONE) != conditions.LABEL:
        return found
    return dataclasses.replace(found, num_labels=_number_of_labels(hparams, dataset))


def _number_of_labels(hparams: Any, dataset: data.Dataset) -> int:
    """Returns the number of labels of a data set, or that asked for; raises UserError where they do not fit."""
    labels = [split.y for split in (dataset.train, dataset.valid, dataset.test)]
    if any(one is None for one in labels):
        raise UserError(f"--condition=label needs labels, and {dataset.name} has none. Name --label_column of a table, "
                        "give y beside x in an npz file, or folders of classes; or leave --condition out.")
    there = max(1 + int(one.max()) for one in labels if one is not None and len(one))
    there = max(there, len(dataset.label_names))
    if hparams.num_labels and hparams.num_labels < there:
        raise UserError(f"--num_labels={hparams.num_labels}, but {dataset.name} has labels up to {there - 1}. Take "
                        f"{there} or more, or 0, which counts them.")
    if there > MOST_CONDITIONS:
        raise UserError(f"{dataset.name} has labels up to {there - 1}; at most {MOST_CONDITIONS} labels can be a "
                        "condition. Number them from 0, or leave --condition out.")
    return hparams.num_labels or there


def read_flags(module: ModuleType, argv: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """Returns the record of a training command, what a run of --init_workdir passes on included, from expanded argv.

    Beside it, {flag that was given and is not read: why}. Raises UserError.
    """
    hparams, given = launch.parse(records_of.widest(module), argv)
    hparams = _as_written(records_of.narrow(inherit(hparams, module.MODEL, given)), given)
    name = data.full_name(hparams.dataset)
    preprocess = hparams.preprocess or (
        likelihoods.table_preprocess(hparams.likelihood) if data.is_standardised(name) else ())
    hparams = dataclasses.replace(hparams, dataset=name, preprocess=preprocess)
    return hparams, records_of.unread(module, hparams, given)


def _as_written(hparams: Any, given: Collection[str]) -> Any:
    """Returns `hparams` with what a run of another version in --workdir has, where not `given`.

    Its flags.cfg leaves out what was a default then, and may be none now.
    """
    run = Run(hparams.workdir)
    if not hparams.workdir or not run.exists or run.read_json("config.json").get("format") == FORMAT:
        return hparams
    before = run.read_hparams()
    if before.model != hparams.model:
        return hparams
    names = [field.name for field in dataclasses.fields(hparams)
             if not field.metadata["operational"] and field.metadata["group"] != hp.EVALUATION]
    kept = {name: getattr(before, name) for name in names if name not in given and hasattr(before, name)}
    return hp.check(dataclasses.replace(hparams, **kept))


def inherit(hparams: Any, model_class: type[Autoencoder], given: Collection[str]) -> Any:
    """Returns `hparams` with the data and network flags that a run to start from passes on, where not `given`."""
    workdirs = model_class.starts(hparams)
    if not workdirs:
        return hparams
    return hp.check(model_class.inherit(hparams, Run(workdirs[0]).read_hparams(), given))


def _feed(model, train, valid, hparams, augment=None, labels=None) -> Feed:
    batch_size = _batch_size(hparams, len(train), say=True)
    # Chosen by the clock, which is another in each process.
    steps_per_call = hparams.steps_per_call or cluster.of_the_chief(
        model.strategy, fitting.steps_per_call(model, train[:batch_size]))  # fmt: skip
    return Feed(train, valid, batch_size, seed=hparams.seed, steps_per_call=steps_per_call,
                resident_bytes=hparams.resident_memory << 20, augment=augment, labels=labels)


def finish(session: Session) -> int:
    """Trains, evaluates and saves; does only what is still to do. Returns the exit status."""
    steps = fitting.total_steps(session.hparams, session.feed.steps_per_epoch)
    if session.run.read_metrics().get("train/steps_asked") == steps:
        _tell_finished(session.run)
        return 0
    announce(session, steps)
    position = fit(session)
    later = run_stages(session)
    found = save(session, position)
    if not session.shared.task.is_chief:  # which evaluates
        cluster.wait(session.shared)
        return 0
    values = evaluate(session)
    record(session, position, {"train/steps_asked": steps, **values, **later, **found})
    cluster.wait(session.shared)
    tell(session.run)
    return 0


def announce(session: Session, steps: int) -> None:
    """Prints what is about to be trained, on what, for how many steps."""
    hparams, model, dataset = session.hparams, session.model, session.dataset
    xla = "on" if fitting.uses_xla(model, hparams, steps) else "off"
    if hparams.jit_compile and xla == "off":
        why = "few steps end sooner without it" if model.xla_pays else "on a CPU such steps are slower with it"
        xla = f"off ({why})" if model.strategy is None else "off (steps are shared)"
    print(f"pae_zoo {hparams.model} on {dataset.name} {dataset.event_shape}: {len(dataset.train.x)} training data, "
          f"{model.count_params():,} weights, device {session.device}, XLA {xla}, seed {hparams.seed}, {steps} steps "
          f"-> {session.run.workdir}", flush=True)


def fit(session: Session) -> Position:
    """Trains the first stage, from its checkpoint if there is one, and measures what is known only after it."""
    hparams, run, model, dataset = session.hparams, session.run, session.model, session.dataset
    if not run.has_checkpoint:
        model.adapt(dataset.train.x)
        if model.num_labels:
            model.count_labels(dataset.train.y)
        if session.starts:
            model.initialise_from_all(session.starts)
            session.starts = ()
    run.write_config(hparams, dataset.event_shape, model)
    run.write_table(dataset)
    position = fitting.train(model, session.feed, first_stage(session), run)
    _tell_early_stop(position, hparams, run)
    model.measure(dataset.valid.x, dataset.train.x)
    return position


def run_stages(session: Session) -> dict[str, Any]:
    """Trains the later stages of the model, measures its scores, and returns what metrics.json says of the stages."""
    found = [_train_stage(session, stage) for stage in session.model.later_stages(session.hparams)]
    session.model.measure_scores(session.dataset.valid.x)
    return {key: value for one in found for key, value in one.items()}


def save(session: Session, position: Position) -> dict[str, float]:
    """Writes model.keras; returns what the model measured of itself, which TensorBoard is told too."""
    run, model = session.run, session.model
    # Again, for a later stage may have chosen sizes of the model.
    run.write_config(session.hparams, session.dataset.event_shape, model)
    run.save("model.keras", model.save)
    found = {**model.findings(), **model.timings(session.dataset.train.x[: session.hparams.batch_size])}
    if found:
        found |= _step_seconds(run.read_history())
        watching.write_scalars(run, position.steps, found)
    return found


def evaluate(session: Session) -> dict[str, Any]:
    """Runs the tasks and returns their values with the time that they took."""
    start = time.monotonic()
    hparams = session.hparams
    # Replicas share a training alone.
    trained = session.model if session.shared.strategy is None else session.run.load_model()
    model = evaluation.refined(trained, hparams)
    context = evaluation.Context(model, session.dataset, hparams, session.run, seed=hparams.seed)
    names = tasks_of(hparams, type(session.model))
    values = evaluation.evaluate(context, names, session.run.merge_metrics)
    evaluation.map_points.keep(context)
    return {**values, "time/evaluate_s": round(time.monotonic() - start, 2)}


def record(session: Session, position: Position, found: dict[str, Any]) -> None:
    """Writes metrics.json: how the training went, and all that was found."""
    values = {key: value for key, value in found.items() if key not in ("train/steps_asked", "time/evaluate_s")}
    session.run.merge_metrics({
        "train/steps": position.steps,
        "train/steps_asked": found["train/steps_asked"],
        "train/epochs": position.epoch,
        "train/best_epoch": position.best_epoch or position.epoch,
        "train/num_weights": session.model.count_params(),
        "time/train_s": round(position.seconds, 2),
        **_means_of_best(session.run, position, "valid/"),
        **values,
        "time/evaluate_s": found["time/evaluate_s"],
    })


def _tell_finished(run: Run) -> None:
    print(f"{run.workdir} is finished: nothing to do. To train longer raise --epochs; to evaluate more: "
          f"python -m pae_zoo.evaluate {_here(run)} --tasks=...")


def _step_seconds(history: list[dict[str, Any]]) -> dict[str, float]:
    """Returns the median over epochs, after the first, which compiles, of the seconds of an epoch over its steps."""
    pairs = [(one["seconds"], one["step"]) for one in history]
    steps = [(b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(pairs, pairs[1:]) if b[1] > a[1]]
    return {"time/entire_training_step": statistics.median(steps)} if steps else {}


def first_stage(session: Session) -> Any:
    """Returns the hyper-parameters of the first stage of training: no step where another run takes its place."""
    if not type(session.model).skips_first_stage(session.hparams):
        return session.hparams
    return dataclasses.replace(session.hparams, epochs=0, max_steps=0, lr_schedule="constant")


def _train_stage(session: Session, stage: Stage) -> dict[str, Any]:
    """Trains a later stage, from its own checkpoint if there is one; returns what metrics.json says of it."""
    hparams = dataclasses.replace(session.hparams, **{**NEUTRAL, **stage.settings})
    run = Run(session.run.workdir, stage=stage.name)
    train, valid = (stage.rows(split.x, split.y) for split in (session.dataset.train, session.dataset.valid))
    found = _begin_stage(stage.part, train, valid, run)
    if len(train) < stage.least and hparams.epochs:
        print(f"{run.label}{len(train)} training data are fewer than {stage.least}: no steps are taken", flush=True)
        hparams = dataclasses.replace(hparams, epochs=0, lr_schedule="constant")
    feed = _feed(stage.part, train, valid, hparams)
    print(f"{run.label}{len(train)} training data of shape {train.shape[1:]}, {stage.part.count_params():,} weights, "
          f"{fitting.total_steps(hparams, feed.steps_per_epoch)} steps", flush=True)
    position = fitting.train(stage.part, feed, hparams, run)
    _tell_early_stop(position, hparams, run)
    means = _means_of_best(run, position)
    return {
        f"{stage.name}/steps": position.steps,
        f"{stage.name}/epochs": position.epoch,
        f"{stage.name}/best_epoch": position.best_epoch or position.epoch,
        **{f"{stage.name}/{key.replace('/', '_')}": value for key, value in means.items()},
        **{f"{stage.name}/{key}": value for key, value in found.items() if key != "seconds"},
        f"time/{stage.name}_s": round(position.seconds + found.get("seconds", 0.0), 2),
    }


def _means_of_best(run: Run, position: Position, prefix: str = "") -> dict[str, Any]:
    """Returns the means over the epoch whose weights were kept, of names that begin with `prefix`."""
    best = [line for line in run.read_history() if line["epoch"] == (position.best_epoch or position.epoch)]
    return {key: value for line in best for key, value in line.items() if "/" in key and key.startswith(prefix)}


def _begin_stage(part: Trainable, train: np.ndarray, valid: np.ndarray, run: Run) -> dict[str, Any]:
    """Sets what a stage takes from its data before the first step, from its file if that was done; returns findings."""
    before = run.load_arrays("start") if part.prepares else None
    if before is not None:
        arrays, note = before
        with part.scope():
            part.restructure(note["sizes"])
        checkpoint.assign(checkpoint.state(part), arrays, run.workdir / run.arrays_path("start"))
        return note["found"]
    if not run.has_checkpoint:
        part.adapt(train)
    if not part.prepares:
        return {}
    start = time.monotonic()
    with part.scope():
        found: dict[str, Any] = dict(part.prepare(train, valid, verbose=True))
    found["seconds"] = round(time.monotonic() - start, 2)
    run.save_arrays("start", checkpoint.arrays_of(checkpoint.state(part)), {"sizes": part.prepared(), "found": found})
    print(run.label + ", ".join(f"{key} {value:.5g}" for key, value in found.items()), flush=True)
    return found


def _tell_early_stop(position: Position, hparams, run: Run) -> None:
    if position.stopped_early:
        print(f"{run.label}stopped early after epoch {position.epoch}: no better validation loss for "
              f"{hparams.patience} epochs", flush=True)


def tasks_of(hparams: Any, model_class: type[Autoencoder]) -> tuple[str, ...]:
    """Returns the tasks of --tasks; without any those of the model."""
    conditional = ("labels",) if getattr(hparams, "condition", "") == conditions.LABEL else ()
    return hparams.tasks or (*default_tasks(model_class), *conditional)


def default_tasks(model_class: type[Autoencoder]) -> tuple[str, ...]:
    """Returns the tasks of a model for which none are asked: reconstruction, likelihood where offered, its own."""
    likelihood = ("likelihood",) if "likelihood" in model_class.offers else ()
    return ("reconstruction", *likelihood, *model_class.default_tasks)


def _here(run: Run) -> str:
    """Returns the flags by which other commands find the run."""
    plugins = run.read_hparams().plugin
    return " ".join([*([console.flag("plugin", ",".join(plugins))] if plugins else []),
                     console.flag("workdir", run.workdir)])


def tell(run: Run) -> None:
    """Prints the metrics, where the pictures are, and what to do next."""
    pictures = [path for path in run.figures.glob("*") if path.suffix.lstrip(".") in records.FIGURES]
    print("\n".join(console.lines(run.read_metrics()) + console.pictures(pictures)))
    here, given = _here(run), "folder:DIR" if run.read_table() is None else "csv:FILE"
    print(f"""Next:
  python -m pae_zoo.evaluate {here} --tasks=generation,ood
  python -m pae_zoo.apply {here} --input={given} --outputs=codes,reconstruction --out=codes.npz
  python -m pae_zoo.export {here} {console.flag("export_dir", f"serving/{run.workdir.name}")}
  tensorboard {console.flag("logdir", run.tensorboard)}""", flush=True)


def _check_same(run: Run, hparams, model_class) -> None:
    """Refuses to go on in a work directory whose run had other hyper-parameters."""
    if not run.exists:
        if run.workdir.is_dir() and any(run.workdir.iterdir()):
            raise UserError(f"--workdir={run.workdir} is not empty and holds no run (no config.json). "
                            "Choose a new folder, or empty this one.")
        return
    before = run.read_hparams()
    changed = hp.differences(before, hparams)
    if hparams.epochs < before.epochs:
        changed.append(f"epochs: {before.epochs} -> {hparams.epochs} (may only be raised)")
    if hparams.epochs > before.epochs and not hparams.max_steps and model_class.length_matters(hparams):
        changed.append(f"epochs: {before.epochs} -> {hparams.epochs} (the schedule or objective depends on the length)")
    if changed:
        raise UserError(f"{run.workdir} holds a run with other hyper-parameters: {'; '.join(changed)}. Choose a new "
                        "--workdir, or repeat the old flags (flags.cfg there) to resume it.")


def _batch_size(hparams, num_data: int, say: bool = False) -> int:
    """Returns --batch_size, shrunk to the number of training data, on demand with a word about it."""
    if num_data >= hparams.batch_size:
        return hparams.batch_size
    if say:
        print(f"only {num_data} training data: --batch_size={hparams.batch_size} shrinks to that", flush=True)
    return num_data
