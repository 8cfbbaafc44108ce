"""`load`: from a name to a data set with train, valid and test."""

import dataclasses
import os
from typing import Any, Optional, Sequence, Union

import numpy as np

from pae_zoo.core.errors import UserError
from pae_zoo.data import sources
from pae_zoo.data.dataset import Dataset, Info, Split
from pae_zoo.data.framing import Geometry, parse_crop
from pae_zoo.data.preprocessing import needing_pixels, takes_reals
from pae_zoo.data.rows import Raw
from pae_zoo.data.tables import TableOptions, TableRows
from pae_zoo.data.tables.schema import Schema

SPLIT_SEED = 42  # the fixed rule: splits never depend on --seed
TEST_FRACTION = 1 / 6  # of sets without an official test split
#: what `load` is told of a table or a folder
TABLE_FLAGS = ("label_column", "columns", "categorical", "index_column", "missing", "window", "stride", "bad_files")


def load(
    name: Union[str, os.PathLike],
    *,
    data_dir: str = "",
    download: bool = True,
    classes: Sequence[int] = (),
    others: bool = False,
    num_train: int = 0,
    num_train_per_class: int = 0,
    image_size: int = 0,
    crop: str = "",
    grey: bool = False,
    invert: bool = False,
    static_binarise: bool = False,
    validation_fraction: float = 1 / 12,
    num_test: int = 0,
    seed: int = 0,
    ood: bool = False,
    label_column: str = "",
    columns: Sequence[str] = (),
    categorical: Sequence[str] = (),
    index_column: str = "",
    missing: str = "refuse",
    window: int = 0,
    stride: int = 0,
    schema: Optional[Schema] = None,
    reals: bool = False,
    bad_files: int = 0,
) -> Dataset:
    """Loads a set of the grammar of `--dataset`, or a file by its path, and splits it by a fixed rule.

    Order: read; hold out a test split where none is official (the last 1/6 of
    `default_rng(42).permutation(n)`); keep `classes`; crop, resize, grey, invert; hold out validation (the last
    `validation_fraction` of `default_rng(42).permutation(n)` of the training rows, unless the source has an
    official one); keep at most `num_train_per_class` training rows of each label, `num_train` training and `num_test`
    test rows.

    `others` makes the test split that of the labels which `classes` leaves out, all of them where no split is official;
    of images one is left of training and validation, while the training rows of a table say what its columns are.

    `seed` only draws the synthetic sets. `ood` looks in `<data_dir>/<name>/` but never in `data_dir` itself.
    `static_binarise` draws every image once, with a fixed seed, as 0 or 255. Images stay uint8 where their
    source is.

    `label_column`, `columns`, `categorical`, `index_column`, `missing`, `window` and `stride` are for tables
    (`tables.TableOptions`); which of their columns are data, and their categories, is found on the training rows, and
    is `Dataset.table`. With `schema`, such a `Dataset.table`, another table is taken as that one was. Windows of a
    series are split by time: the last 1/6 of the rows is the test split. With `reals`, images of floats in arrays may
    leave [0, 1]: give the model a preprocessing that says so too, such as `build_chain(["reals", "standardise"])`.

    Images of a folder that differ in size are resized and cropped to the median size, unless `crop` or `image_size`
    says otherwise; up to `bad_files` of them may be unreadable. Both are told in the notes.

    Raises UserError, one line, for anything wrong with the arguments or the files.

    Examples:
      >>> digits = load("digits", classes=(0, 1), num_train=100)
      >>> digits.train.x.shape, digits.event_shape, sorted(set(digits.train.y.tolist()))
      ((100, 8, 8, 1), (8, 8, 1), [0, 1])
    """
    name = sources.canonical(sources.full_name(os.fspath(name)))
    _check(num_train, num_test, image_size, num_train_per_class)
    check_fraction(validation_fraction)
    user = Geometry(parse_crop(crop), image_size, grey, invert)
    options = TableOptions(label_column, tuple(columns), tuple(categorical), index_column, missing, window, stride,
                           validation_fraction)
    raw, info, prepared = sources.find(name, data_dir=data_dir, download=download, ood=ood, seed=seed, options=options,
                                       schema=schema, reals=reals, bad_files=bad_files)
    geometry = Geometry(
        user.crop or prepared.crop,
        user.size or prepared.size,
        user.grey or prepared.grey,
        user.invert != prepared.invert,  # a set that is inverted by default is turned back
    )
    if (
        raw.train.shape is not None
        and len(raw.train.shape) != 3
        and (not geometry.is_identity or static_binarise)
    ):
        raise UserError(
            f"{name} holds data of shape {raw.train.shape}; image_size, crop, grey, invert and "
            "static binarisation are for images."
        )
    return split(name, raw, info, geometry, validation_fraction, reals, classes, num_train_per_class, num_train,
                 num_test, static_binarise, others)  # fmt: skip


def of_hparams(hparams: Any, *, others: bool = False) -> Dataset:
    """Returns the data set that the flags of a run describe, or with `others` as `load` takes it; raises UserError."""
    return load(
        hparams.dataset,
        data_dir=hparams.data_dir,
        download=hparams.download,
        classes=hparams.classes,
        others=others,
        num_train=hparams.num_train,
        num_train_per_class=hparams.num_train_per_class,
        image_size=hparams.image_size,
        crop=hparams.crop,
        grey=hparams.grey,
        invert=hparams.invert,
        static_binarise="binarise_static" in hparams.preprocess,
        validation_fraction=hparams.validation_fraction,
        num_test=64 if hparams.smoke else 0,
        reals=takes_reals(hparams.preprocess),
        **{name: getattr(hparams, name) for name in TABLE_FLAGS},
    )


def split(name: str, raw: Raw, info: Info, geometry: Geometry, validation_fraction: float, reals: bool = False,
          classes: Sequence[int] = (), num_train_per_class: int = 0, num_train: int = 0, num_test: int = 0,
          static_binarise: bool = False, others: bool = False) -> Dataset:
    """Returns what a reader found as a data set, split by the rules of `load`; raises UserError."""
    train, test = _hold_out_test(raw)
    train, test = _of_classes(name, raw, classes, train, test)
    train, valid = _hold_out_validation(raw, train, validation_fraction, classes)
    if others:
        test = _of_other_classes(name, raw, classes)
        if not isinstance(raw.train, TableRows):  # which are read once more
            train, valid = train[:1], valid[:1]
    if num_train_per_class:
        train = _of_each_class(name, raw, train, num_train_per_class)
    if num_train:
        train = train[:num_train]
    if num_test:
        test = test[:num_test]
    splits = _take(raw, train, valid, test, geometry)
    if static_binarise:
        splits = [_binarised(split, number) for number, split in enumerate(splits)]
    info = _stated(info, raw, splits, reals)
    first, second, third = splits
    schema = raw.train.encoder.schema if isinstance(raw.train, TableRows) else None
    return Dataset(name, first, second, third, info.shape, info, raw.log_prob, raw.label_names,
                   raw.attribute_names, schema)


def check_steps(dataset: Dataset, preprocess: Sequence[str] = (), augment: Sequence[str] = (),
                likelihood: str = "") -> None:
    """Raises UserError for steps of `--preprocess` and `--augment`, or a likelihood, that are not made for the data.

    Augmentations change images. The likelihood of bits takes no columns of a table. Dequantisation, the logit map and
    binarisation take pixels: images, or vectors of uint8.
    """
    x = dataset.train.x
    if likelihood == "bernoulli" and dataset.table is not None:
        raise UserError(f"--likelihood=bernoulli is for values in [0, 1]; {dataset.name} is a table of reals. Take "
                        "gaussian_learned, the default.")
    what = f"{dataset.name} holds data of shape {dataset.event_shape}, {x.dtype}"
    if augment and x.ndim != 4:
        raise UserError(f"--augment={','.join(augment)} is for images; {what}. Leave it out.")
    pixels = needing_pixels(preprocess)
    if pixels and x.ndim != 4 and x.dtype != np.uint8:
        raise UserError(f"--preprocess={','.join(preprocess)}: {', '.join(pixels)} for pixels only, images or vectors "
                        f"of uint8; {what}. Take standardise or centre, or nothing.")


def _stated(info: Info, raw: Raw, splits: Sequence[Split], reals: bool) -> Info:
    """Completes what a set states by what was found and done here."""
    x = splits[0].x
    value_range = info.value_range
    if value_range in ("", sources.BYTES):
        value_range = sources.BYTES if x.dtype == np.uint8 else "[0, 1]" if x.ndim == 4 and not reals else "reals"
    rule = "official" if raw.test is not None else "test: the last 1/6 of default_rng(42).permutation"
    here = " / ".join(f"{name} {len(split):,}" for name, split in zip(("train", "valid", "test"), splits))
    return dataclasses.replace(
        info,
        shape=tuple(x.shape[1:]),
        value_range=value_range,
        splits=f"{info.splits or raw.splits or rule}; here {here}",
        source=raw.source,
        notes=(*raw.notes, *getattr(raw.train, "told", ())),
    )


def check_fraction(validation_fraction: float) -> None:
    """Raises UserError unless a share of the training data can be held out."""
    if not 0 <= validation_fraction < 1:
        raise UserError(f"validation_fraction={validation_fraction} is outside [0, 1); the default is 1/12.")


def _check(num_train: int, num_test: int, image_size: int, per_class: int = 0) -> None:
    for key, value in (("num_train", num_train), ("num_test", num_test), ("image_size", image_size),
                       ("num_train_per_class", per_class)):
        if value < 0:
            raise UserError(f"{key}={value} is negative; allowed are positive integers, or 0 for all.")


def _hold_out_test(raw: Raw) -> tuple[np.ndarray, np.ndarray]:
    count = len(raw.train)
    if raw.test is not None:
        return np.arange(count), np.arange(len(raw.test))
    if raw.held_out is not None:
        return np.setdiff1d(np.arange(count), raw.held_out), raw.held_out
    if count < 3:
        raise UserError(
            f"{raw.source} holds {count} rows and no test split; at least 3 are needed to split it."
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    size = max(1, round(count * TEST_FRACTION))
    return np.sort(order[:-size]), np.sort(order[-size:])


def _of_classes(name: str, raw: Raw, classes: Sequence[int], train: np.ndarray, test: np.ndarray):
    if not len(classes):
        return train, test
    if raw.train_y is None:
        raise UserError(f"classes={_listed(classes)} needs labels, but {name} has none; leave classes out.")
    labels = raw.train_y if raw.test is None else raw.test_y
    assert labels is not None  # readers give labels to all splits or to none
    test_y = labels[test]
    for label in classes:
        if label not in raw.train_y[train]:
            present = _listed(np.unique(raw.train_y).tolist())
            raise UserError(
                f"classes={_listed(classes)}: {name} has no label {label}; labels present: {present}."
            )
        if label not in test_y:
            raise UserError(
                f"classes={_listed(classes)}: the test split of {name} has no label {label}; labels present "
                f"there: {_listed(np.unique(test_y).tolist())}."
            )
    return train[np.isin(raw.train_y[train], classes)], test[np.isin(test_y, classes)]


def _of_other_classes(name: str, raw: Raw, classes: Sequence[int]) -> np.ndarray:
    """Returns the rows of an official test split, or else all rows, whose labels are not among `classes`."""
    labels = raw.train_y if raw.test is None else raw.test_y
    if not len(classes) or labels is None:
        raise UserError(f"{name}: other classes are those that classes leaves out, and none are; give classes=0, say.")
    found = np.flatnonzero(~np.isin(labels, classes))
    if not len(found):
        where = "" if raw.test is None else "the test split of "
        raise UserError(f"classes={_listed(classes)}: {where}{name} has no other labels.")
    return found


def _of_each_class(name: str, raw: Raw, train: np.ndarray, most: int) -> np.ndarray:
    """Returns the first `most` rows of each label, in their order."""
    if raw.train_y is None:
        raise UserError(f"num_train_per_class={most} needs labels, but {name} has none; give num_train.")
    labels = raw.train_y[train]
    kept = np.sort(np.concatenate([np.flatnonzero(labels == label)[:most] for label in np.unique(labels)]))
    return train[kept]


def _listed(labels: Sequence) -> str:
    shown = ",".join(str(label) for label in labels[:20])
    return shown + (f",... ({len(labels)} in all)" if len(labels) > 20 else "")


def _hold_out_validation(raw: Raw, train: np.ndarray, fraction: float, classes: Sequence[int]):
    if raw.valid is not None:
        order = np.random.default_rng(SPLIT_SEED).permutation(len(train))
        valid = np.arange(len(raw.valid))
        if len(classes):
            valid = np.flatnonzero(np.isin(np.asarray(raw.valid_y), classes))
        if not len(valid):
            raise UserError(f"classes={_listed(classes)}: the validation split of {raw.source} has none of them; give "
                            "others.")
        return train[order], valid
    count = len(train)
    size = max(1, round(count * fraction)) if fraction else 0
    if count - size < 1:
        raise UserError(
            f"{raw.source} has {count} training rows; at least 2 are needed, one of them for validation."
        )
    order = np.random.default_rng(SPLIT_SEED).permutation(count)
    return train[order[: count - size]], train[order[count - size :]]


def _take(
    raw: Raw, train: np.ndarray, valid: np.ndarray, test: np.ndarray, geometry: Geometry
) -> list[Split]:
    """Takes all parts of one source in a single call, so that it can do without a second copy."""
    origin = {"train": raw.train, "valid": raw.valid or raw.train, "test": raw.test or raw.train}
    labels = {
        "train": raw.train_y,
        "valid": raw.valid_y if raw.valid else raw.train_y,
        "test": raw.test_y if raw.test else raw.train_y,
    }
    has = raw.attributes
    known = {
        "train": has.get("train"),
        "valid": has.get("valid" if raw.valid else "train"),
        "test": has.get("test" if raw.test else "train"),
    }
    wanted = {"train": train, "valid": valid, "test": test}
    taken = {}
    for rows in {id(rows): rows for rows in origin.values()}.values():
        names = [split for split in wanted if origin[split] is rows]
        taken.update(zip(names, rows.take([wanted[split] for split in names], geometry)))
    shapes = {taken[split].shape[1:] for split in taken}
    if len(shapes) > 1:
        raise UserError(
            f"{raw.source} has splits of different shapes {sorted(shapes)}; give image_size=N or crop=H,W."
        )
    chosen = {split: None if y is None else y[wanted[split]] for split, y in labels.items()}
    own = {split: None if found is None else found[wanted[split]] for split, found in known.items()}
    return [Split(taken[split], chosen[split], own[split]) for split in wanted]


def _binarised(split: Split, number: int) -> Split:
    rng = np.random.default_rng([SPLIT_SEED, number])
    out = np.empty(split.x.shape, np.uint8)
    for start in range(0, len(out), 1024):
        unit = split.unit(slice(start, start + 1024))
        out[start : start + 1024] = np.where(rng.random(unit.shape, np.float32) < unit, 255, 0)
    return Split(out, split.y, split.attributes)
