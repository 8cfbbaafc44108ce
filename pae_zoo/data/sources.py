"""The table of named sets, and where each is looked for.

Order: <data_dir>/<name>/, then `data_dir` itself (never for OOD sets), then the Debian package, then
tensorflow-datasets. What is found but broken is an error; the search never falls through past it.
"""

import dataclasses
import os
import pathlib
import re
from typing import Callable, Optional, Sequence

from pae_zoo.core import reading, remote
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.data import (
    celeba,
    chardata,
    cifar,
    cifar100,
    embedded,
    folders,
    idx,
    mat,
    npz,
    omniglot,
    synthetic,
    tables,
    tfds_source,
    windows,
)
from pae_zoo.data.dataset import Info
from pae_zoo.data.framing import Geometry
from pae_zoo.data.rows import Raw

BYTES = "uint8, 0 to 255 (/255 -> [0, 1])"


@dataclasses.dataclass(frozen=True)
class NamedSet:
    """A row of the table.

    `forms` are the modules whose `find(folder)` recognises a local copy. `geometry` prepares images that come
    in their `native` size (H, W), None for images of many sizes. `make(seed)` builds sets that need no files.
    `labels` are the names of labels 0, 1, ... `standardised`: whether models standardise the data by default.
    """

    info: Info
    forms: tuple = ()
    tfds: str = ""
    debian: str = ""
    native: Optional[tuple] = ()
    geometry: Geometry = Geometry()
    make: Optional[Callable[[int], Raw]] = None
    labels: tuple[str, ...] = ()
    standardised: bool = False


def _mnist_like(title: str, licence: str, tfds: str, debian: str = "", labels: tuple[str, ...] = ()) -> NamedSet:
    info = Info(title, (28, 28, 1), BYTES, licence, "train 60,000 / test 10,000, official")
    return NamedSet(info, (idx, npz, folders, tfds_source), tfds, debian, labels=labels)


SETS = {
    "digits": NamedSet(
        Info(
            "scikit-learn's 1,797 handwritten digits",
            (8, 8, 1),
            "float32, k/16 for k = 0 to 16",
            "UCI Optical Recognition of Handwritten Digits, CC BY 4.0, embedded in scikit-learn",
            "train 1,497 / test 300: the last 1/6 of default_rng(42).permutation",
        ),
        make=embedded.digits,
    ),
    "breast_cancer": NamedSet(
        Info(
            "tumours of the breast, 569 rows of 30 measures, benign or malignant",
            (30,),
            "reals",
            "UCI Breast Cancer Wisconsin (Diagnostic), CC BY 4.0, embedded in scikit-learn",
            "train 474 / test 95: the last 1/6 of default_rng(42).permutation",
        ),
        make=embedded.breast_cancer,
        standardised=True,
    ),
    "wine": NamedSet(
        Info(
            "Italian wines, 178 rows of 13 chemical measures, of three growers",
            (13,),
            "reals",
            "UCI Wine, CC BY 4.0, embedded in scikit-learn",
            "train 148 / test 30: the last 1/6 of default_rng(42).permutation",
        ),
        make=embedded.wine,
        standardised=True,
    ),
    "mnist": _mnist_like("MNIST handwritten digits", "LeCun, Cortes, Burges; CC BY-SA 3.0", "mnist"),
    "fashion_mnist": _mnist_like(
        "Fashion-MNIST pictures of clothes",
        "Zalando, MIT",
        "fashion_mnist",
        "/usr/share/datasets/fashion-mnist",
        ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "kmnist": _mnist_like("Kuzushiji-MNIST cursive characters", "CODH, CC BY-SA 4.0", "kmnist"),
    "omniglot": NamedSet(
        Info(
            "Omniglot characters, inverted, 28x28",
            (28, 28, 1),
            BYTES,
            "Lake et al., MIT",
            "images_background train / images_evaluation test; of one part only: drawers 17 to 20 are test",
        ),
        (npz, chardata, omniglot, tfds_source),
        "omniglot",
        native=omniglot.NATIVE,
        geometry=Geometry(size=28, grey=True, invert=True),
    ),
    "cifar10": NamedSet(
        Info(
            "CIFAR-10 photographs",
            (32, 32, 3),
            BYTES,
            "Krizhevsky 2009, no licence stated",
            "train 50,000 / test 10,000, official",
        ),
        (npz, cifar, folders, tfds_source),
        "cifar10",
        labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    ),
    "cifar100": NamedSet(
        Info(
            "CIFAR-100 photographs, fine labels",
            (32, 32, 3),
            BYTES,
            "Krizhevsky 2009, no licence stated",
            "train 50,000 / test 10,000, official",
        ),
        (npz, cifar100, folders, tfds_source),
        "cifar100",
    ),
    "imagenette": NamedSet(
        Info(
            "Imagenette, ten classes of ImageNet, the middle 160x160, 64x64",
            (64, 64, 3),
            BYTES,
            "fast.ai, Apache 2.0 (images: terms of ImageNet)",
            "train 9,469 / valid 3,925, official; test: the last 1/6 of default_rng(42).permutation of train",
        ),
        (npz, folders, tfds_source),
        "imagenette/160px-v2",
        native=None,
        geometry=Geometry(crop=(160, 160), size=64),
        labels=("tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck",
                "gas pump", "golf ball", "parachute"),
    ),
    "svhn_cropped": NamedSet(
        Info(
            "Street View House Numbers, cropped",
            (32, 32, 3),
            BYTES,
            "Netzer et al. 2011, non-commercial use",
            "train 73,257 / test 26,032, official (extra unused)",
        ),
        (mat, npz, folders, tfds_source),
        "svhn_cropped",
    ),
    "celeb_a": NamedSet(
        Info(
            "CelebA faces, rows 45-172, columns 25-152, 64x64",
            (64, 64, 3),
            BYTES,
            "Liu et al. 2015, non-commercial research",
            "train 162,770 / valid 19,867 / test 19,962, official",
        ),
        (npz, celeba, tfds_source),
        "celeb_a",
        native=celeba.SHAPE[:2],
        geometry=Geometry(crop=(45, 25, 128, 128), size=64),
    ),
    **{
        name: NamedSet(density.info, make=lambda seed, name=name: synthetic.draw(name, seed))
        for name, density in synthetic.SYNTHETIC.items()
    },
}

#: {what other codes call a set: its name here}
ALIASES = {"fmnist": "fashion_mnist", "celeba": "celeb_a", "svhn": "svhn_cropped"}

#: kinds of files of arrays -> reader of (path, whether images may hold any reals)
ARRAYS: dict[str, Callable[..., Raw]] = {"npz": npz.read, "npy": npz.read_one, "windows": windows.read}
# prefix -> (what follows it, help, reader of (what follows, data_dir or None, download))
PREFIXES = {
    "npz": ("FILE", "your own arrays: x or x_train (and x_test, y_*)", ARRAYS["npz"]),
    "npy": ("FILE", "your own array, images or vectors", ARRAYS["npy"]),
    "windows": ("FILE", "your own windows of a series, an npz or npy of (n, T, C) or (n, T), in the order of time",
                ARRAYS["windows"]),
    "folder": (
        "DIR",
        "your own images, sorted; subfolders are labels, train/, val/ and test/ are splits",
        lambda rest, *_: folders.read(rest),
    ),
    "tfds": ("NAME", "any image set of tensorflow-datasets, prepared or downloaded", tfds_source.read),
}
#: kinds of tables -> what follows the prefix, help
TABLES = {
    "csv": ("FILE", "your own table, a row each: see --label_column, --columns, --categorical, --window"),
    "parquet": ("FILE", "the same, by pyarrow"),
}
#: ending of a bare path -> prefix
ENDINGS = {".csv": "csv", ".tsv": "csv", ".csv.gz": "csv", ".tsv.gz": "csv", ".parquet": "parquet", ".pq": "parquet",
           ".npz": "npz", ".npy": "npy", ".zip": "folder"}  # fmt: skip


def describe() -> dict[str, str]:
    """Returns a line for every value that `--dataset` takes."""
    lines = {
        name: f"{named.info.title}; {_by(named.info.shape)}; {named.info.splits}"
        for name, named in SETS.items()
    }
    own = {**{prefix: row[:2] for prefix, row in PREFIXES.items()}, **TABLES}
    return {**lines, **{f"{prefix}:{what}": line for prefix, (what, line) in own.items()}}


def _by(shape: tuple) -> str:
    return "x".join(map(str, shape))


def canonical(name: str) -> str:
    """Returns the name here of what other codes call by another, any other name as it is."""
    return ALIASES.get(name, name)


def full_name(name: str) -> str:
    """Returns a bare path with the prefix of its ending, wine.csv as csv:wine.csv; any other name as it is.

    A path that ends in / , or that has a / and is a folder, is one of images.
    """
    prefix, colon, _ = name.partition(":")
    if canonical(name) in SETS or (colon and prefix in (*PREFIXES, *TABLES)):
        return name
    ending = next((kind for end, kind in ENDINGS.items() if name.lower().endswith(end) and len(name) > len(end)), "")
    if not ending and (name.endswith("/") or ("/" in name and "\0" not in name and os.path.isdir(name))):
        ending = "folder"
    return f"{ending}:{name}" if ending else name


def is_table(name: str) -> bool:
    """Whether a name is that of a table."""
    return full_name(name).partition(":")[0] in TABLES


def is_standardised(name: str) -> bool:
    """Whether a name is that of data which lie anywhere, and are standardised unless the user says otherwise."""
    prefix, colon, _ = full_name(name).partition(":")
    named = SETS.get(canonical(name))
    return bool(colon) and prefix in (*TABLES, "windows") or (named is not None and named.standardised)


def check_name(name: str) -> None:
    """Raises UserError unless `name` is a known name, has a known prefix or ending; touches no file of a set."""
    name = full_name(name)
    prefix, _, rest = name.partition(":")
    if canonical(name) in SETS or (prefix in (*PREFIXES, *TABLES) and rest):
        return
    raise unknown("dataset", reading.shown(name), describe())


def locate(name: str, *, data_dir: str = "", download: bool = True,
           schema: Optional[tables.Schema] = None) -> Optional[tuple[int, ...]]:
    """Returns the shape of a datum of an OOD set as it is stored, None where it varies.

    The set is looked for, or downloaded, where `load` takes it from; raises UserError as that does. `schema` is that of
    the table which the model was trained on; without it a table is not read yet.
    """
    if schema is None and is_table(name):
        reading.regular(reading.locate(full_name(name).partition(":")[2]))
        return None
    return find(name, data_dir=data_dir, download=download, ood=True, schema=schema)[0].train.shape


def find(
    name: str, *, data_dir: str = "", download: bool = True, ood: bool = False, seed: int = 0,
    options: tables.TableOptions = tables.PLAIN, schema: Optional[tables.Schema] = None, reals: bool = False,
    bad_files: int = 0,
) -> tuple[Raw, Info, Geometry]:
    """Returns rows, what the set states, and the geometry its images need, or raises UserError.

    `options` are those of a table; with `schema` its columns are taken as those of another table were. With `reals`
    images of floats in arrays may leave [0, 1]. Up to `bad_files` images of a folder may be unreadable.
    """
    check_name(name)
    name = canonical(full_name(name))
    home = _home(data_dir, name)
    if home is not None and not home.is_dir():
        raise UserError(f"data_dir={data_dir} is not a folder; give an existing one, or leave data_dir out.")
    if home is not None:
        _is_empty(home)
    prefix, _, rest = name.partition(":")
    if prefix in TABLES:
        raw = tables.as_raw(tables.table_of(prefix, rest, options, schema), options, schema)
        return raw, Info(name, (), "reals", "your own", ""), Geometry()
    if options.given:
        kinds = ", ".join(f"{kind}:FILE" for kind in TABLES)
        raise UserError(f"{', '.join(options.given)}: for tables alone ({kinds}); {reading.shown(name)} is none. Leave "
                        "it out.")
    if options.masks and prefix not in ARRAYS and not ood:
        raise UserError(f"missing=mask is for tables and arrays, whose values may be missing; {reading.shown(name)} is "
                        "neither. Leave it out.")
    if bad_files and prefix != "folder":
        raise UserError(f"bad_files={bad_files} is for folders of images, folder:DIR; leave it out.")
    if prefix in PREFIXES:
        if prefix == "folder":
            raw = folders.read(reading.locate(rest), bad_files=bad_files)
        else:
            raw = (ARRAYS[prefix](rest, reals, options.masks) if prefix in ARRAYS
                   else PREFIXES[prefix][2](rest, home, download))
            raw = windows.by_time(raw, options.validation_fraction) if prefix == "windows" else raw
        return (
            raw,
            Info(name, (), "", "your own" if prefix != "tfds" else "see tensorflow-datasets", ""),
            Geometry(),
        )
    named = SETS[name]
    raw = named.make(seed) if named.make else _search(name, named, home, download, ood)
    raw.label_names = _named_labels(raw, named)
    native = raw.train.shape if named.native is None or raw.train.shape is None else raw.train.shape[:2]
    return raw, named.info, named.geometry if native == named.native else Geometry()


def _home(data_dir: str, name: str) -> Optional[pathlib.Path]:
    """Returns the folder of data sets; of one that lies elsewhere a copy, with no more than this set needs."""
    if not data_dir:
        return None
    return remote.local_copy(data_dir, name) if remote.is_elsewhere(data_dir) else reading.locate(data_dir)


def _named_labels(raw: Raw, named: NamedSet) -> tuple[str, ...]:
    """Returns the names of labels; those of the set where the labels found are numbers that they are for."""
    found = [y for y in (raw.train_y, raw.test_y, raw.valid_y) if y is not None and len(y)]
    fits = found and all(0 <= y.min() and y.max() < len(named.labels) for y in found)
    # Folders of Imagenette are called by numbers of WordNet, in the order of the names.
    if fits and (not raw.label_names or named.native is None and len(raw.label_names) == len(named.labels)):
        return named.labels
    return raw.label_names


def _search(name: str, named: NamedSet, home: Optional[pathlib.Path], download: bool, ood: bool) -> Raw:
    own = home / name if home else None
    if own is not None and os.path.lexists(own):
        found = _first(own, named.forms) if own.is_dir() and not _is_empty(own) else None
        if found is None:
            what = "no files" if own.is_dir() and _is_empty(own) else "none of the forms that are read"
            raise UserError(f"{own} exists but holds {what}; allowed: {_allowed(named.forms)}.")
        return found()
    found = _flat(name, named, home) if home and not ood else None
    if found is None and named.debian and pathlib.Path(named.debian).is_dir():
        found = _first(pathlib.Path(named.debian), named.forms)
        if found is None:
            raise UserError(
                f"{named.debian} holds none of the forms that are read; reinstall its Debian package."
            )
    if found is not None:
        return found()
    place = own if own is not None else pathlib.Path("<data_dir>") / name
    return tfds_source.read(
        named.tfds,
        home,
        download,
        f"put its files in {place}/ and give --data_dir (allowed: {_allowed(named.forms)})",
    )


def _is_empty(folder: pathlib.Path) -> bool:
    """Whether nothing lies in a folder; raises UserError where that may not be seen, which `glob` passes over."""
    with reading.told(folder, "folder", "see its rights"), os.scandir(folder) as entries:
        return next(entries, None) is None


def _allowed(forms: Sequence) -> str:
    return "; ".join(form.DESCRIPTION for form in forms)


def _first(folder: pathlib.Path, forms: Sequence) -> Optional[Callable[[], Raw]]:
    for form in forms:
        found = form.find(folder)
        if found is not None:
            return found
    return None


def _flat(name: str, named: NamedSet, folder: pathlib.Path) -> Optional[Callable[[], Raw]]:
    """Looks in `data_dir` itself, where other sets lie too: what could be another's is passed by."""
    for form in named.forms:
        if form in (idx, cifar, mat, celeba, chardata):
            found = form.find(folder)
        elif form is npz:
            files = [path for path in sorted(folder.glob("*.npz")) if _owner(path.stem) == name]
            found = (lambda path=files[0]: npz.read(path)) if len(files) == 1 else None
            if len(files) > 1:
                raise UserError(
                    f"{folder} holds {len(files)} files for {name} ({files[0].name}, {files[1].name}); "
                    "keep one."
                )
        elif form is omniglot:
            found = omniglot.find(folder, only_named=True)
        else:
            found = None
        if found is not None:
            return found
    return None


def _owner(stem: str) -> str:
    """The set whose name the file name starts with, the longest if several, such as cifar10_small."""
    plain = re.sub(r"[^a-z0-9]", "", stem.lower())
    return max((n for n in SETS if plain.startswith(n.replace("_", ""))), key=len, default="")
