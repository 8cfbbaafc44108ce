"""Applying a model in parts: the numbers of all data at once, going on, other settings, broken files, memory."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from battery import images
from PIL import Image
from test_apply import command, finished

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

ROWS, COLUMNS = 23, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of vae on vectors of three numbers."""
    return finished(tmp_path_factory.mktemp("runs") / "vae", "vae", (COLUMNS,), preprocess=("reals",))[1]


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).normal(size=(ROWS, COLUMNS)).astype(np.float32)


def write(path, kind, x):
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "npy":
        np.save(path, x)
    elif kind == "csv":
        np.savetxt(path, x, delimiter=";", header="a;b;c", comments="", fmt="%.9g")
    else:
        parquet.write_table(pyarrow.table({name: x[:, place] for place, name in enumerate("abc")}), path)
    return path


def read(folder, form="parquet"):
    """Returns {column: values} of all parts of a folder, in the order of their names."""
    paths = sorted(folder.glob(f"*.{form}"))
    if form == "parquet":
        return pyarrow.concat_tables([parquet.read_table(path) for path in paths]).to_pydict()
    if form == "npz":
        parts = []
        for path in paths:
            with np.load(path) as file:
                parts.append(dict(file))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    parts = [list(csv.DictReader(path.read_text().splitlines())) for path in paths]
    return {name: [float(row[name]) for part in parts for row in part] for name in parts[0][0]}


def whole_of(folder):
    with np.load(folder / "whole.npz") as file:
        return dict(file)


@pytest.mark.parametrize("kind,form", [("parquet", "parquet"), ("csv", "csv"), ("npy", "npz")])
def test_parts_are_the_whole(run, rows, tmp_path, kind, form):
    source = write(tmp_path / f"x.{kind}", kind, rows)
    given = [f"--workdir={run}", f"--input={kind}:{source}", "--outputs=codes"]
    assert command(*given, f"--out={tmp_path / 'whole.npz'}") == 0
    assert command(*given, f"--out={tmp_path / 'parts'}", "--part_rows=10", f"--part_format={form}") == 0
    whole, found = whole_of(tmp_path)["codes"], read(tmp_path / "parts", form)
    codes = found["codes"] if form == "npz" else np.stack([found[f"code_{k}"] for k in range(whole.shape[1])], axis=1)
    np.testing.assert_allclose(codes, whole, rtol=1e-5, atol=1e-6)
    assert list(found["index"]) == list(range(ROWS))
    record = json.loads((tmp_path / "parts" / "parts.json").read_text())
    assert record["rows"] == ROWS and sorted(record["parts"].values()) == [3, 10, 10]


def test_a_command_goes_on_where_it_ended(run, rows, tmp_path, capsys):
    """A part that is made anew has the noise that it had; other settings, and another place, are refused."""
    source = write(tmp_path / "x.parquet", "parquet", rows)
    given = [f"--workdir={run}", f"--input={source}", "--outputs=log_likelihood", "--importance_samples=3",
             "--part_rows=10", f"--out={tmp_path / 'parts'}"]  # fmt: skip
    assert command(*given) == 0
    first = read(tmp_path / "parts")
    assert len(set(np.round(first["log_likelihood"], 3))) > 20
    (tmp_path / "parts" / "x-00001.parquet").unlink()
    capsys.readouterr()
    assert command(*given) == 0
    assert "wrote 1 parts, 10 rows" in capsys.readouterr().out and read(tmp_path / "parts") == first
    for more, words in (["--seed=1"], "other settings (seed)"), ([f"--input={tmp_path}"], "input"):
        assert command(*given, *more) == 2
        assert words in capsys.readouterr().err


def test_of_a_folder_a_broken_file_stops_itself_alone(run, rows, tmp_path, capsys):
    for number in range(3):
        write(tmp_path / "in" / f"{number}.parquet", "parquet", rows[: 8 + number])
    broken = tmp_path / "in" / "1.parquet"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    given = [f"--workdir={run}", f"--input=parquet:{tmp_path / 'in'}", "--part_rows=100", f"--out={tmp_path / 'parts'}"]
    assert command(*given) == 2
    error = capsys.readouterr().err
    assert "1 of 3 files could not be read" in error and "1.parquet" in error and "Traceback" not in error
    broken.write_bytes(whole)
    assert command(*given) == 0
    found = read(tmp_path / "parts")
    assert found["index"] == [*range(8), *range(9), *range(10)] and found["file"][8] == "1.parquet"


def test_images_keep_their_names(tmp_path):
    run = finished(tmp_path / "run", "vae")[1]
    x = (255 * images(5, seed=7)).astype(np.uint8)
    for number, pixels in enumerate(x):
        (tmp_path / "in" / "abb"[number % 3]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(tmp_path / "in" / "abb"[number % 3] / f"{number}.png")
    given = [f"--workdir={run}", f"--input=folder:{tmp_path / 'in'}"]
    assert command(*given, f"--out={tmp_path / 'whole.npz'}") == 0
    assert command(*given, f"--out={tmp_path / 'parts'}", "--part_rows=2") == 0
    found, whole = read(tmp_path / "parts"), whole_of(tmp_path)
    assert found["name"] == whole["names"].tolist() == ["a/0.png", "a/3.png", "b/1.png", "b/2.png", "b/4.png"]
    np.testing.assert_allclose(found["code_0"], whole["codes"][:, 0], rtol=1e-5, atol=1e-6)


def test_what_has_no_parts_is_told(run, rows, tmp_path, capsys):
    source, place = write(tmp_path / "x.npy", "npy", rows), f"--out={tmp_path / 'parts'}"
    np.savez(tmp_path / "x.npz", x=rows)
    for more, words in [(["--part_rows=5", f"--input=npz:{tmp_path / 'x.npz'}", place], "no pieces"),
                        (["--part_rows=5", "--limit=3", place], "--limit"),
                        (["--part_format=csv", f"--out={tmp_path / 'a.npz'}"], "--part_rows=N"),
                        (["--part_rows=5", f"--out={tmp_path / 'a.csv'}"], "without an ending"),
                        (["--part_rows=5", "--outputs=anomalies", place], "--contamination"),
                        (["--part_rows=5", f"--input=parquet:{tmp_path / 'none'}", place], "none"),
                        (["--part_rows=5", f"--input=csv:{run}", place], "no files that end in")]:  # fmt: skip
        assert command(f"--workdir={run}", f"--input=npy:{source}", *more) == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error


MEASURE = "import resource, sys; from pae_zoo import apply; status = apply.main(sys.argv[1:]); " \
          "print('MiB', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, status)"


@pytest.mark.full
def test_memory_does_not_grow_with_the_rows(tmp_path):
    run = finished(tmp_path / "run", "vae", (20,), preprocess=("reals",))[1]
    peaks = []
    for rows in (20_000, 200_000):
        x = np.random.default_rng(0).normal(size=(rows, 20)).astype(np.float32)
        table = pyarrow.table({f"c{place}": x[:, place] for place in range(20)})
        parquet.write_table(table, tmp_path / f"{rows}.parquet", row_group_size=10_000)
        done = subprocess.run([sys.executable, "-c", MEASURE, f"--workdir={run}", "--outputs=codes,ood_scores",
                               f"--input={tmp_path / str(rows)}.parquet", f"--out={tmp_path / str(rows)}",
                               "--part_rows=10000", "--batch_size=1000"], capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout.split("MiB ")[1].split()[0]))
        assert json.loads((tmp_path / str(rows) / "parts.json").read_text())["rows"] == rows
    assert peaks[1] < 1536 and peaks[1] < peaks[0] + 200, peaks


# ---- records of TensorFlow ------------------------------------------------------------------------------


def example(**features):
    """Returns a serialised tf.train.Example of lists, whose kinds are those of their first values."""
    made = {}
    for name, values in features.items():
        first = values[0] if len(values) else 0.0
        kind = "bytes" if isinstance(first, bytes) else "int64" if isinstance(first, int) else "float"
        field = {"bytes": tf.train.BytesList, "int64": tf.train.Int64List, "float": tf.train.FloatList}[kind]
        made[name] = tf.train.Feature(**{f"{kind}_list": field(value=values)})
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def records(path, examples, packed=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path), packed) as writer:
        for one in examples:
            writer.write(one)
    return path


@pytest.mark.parametrize("form", ["array", "table"])
def test_records_of_numbers_are_those_of_an_array(run, rows, tmp_path, form):
    def of(row):
        values = [float(value) for value in row]
        return example(x=values, label=[3]) if form == "array" else example(**{n: [v] for n, v in zip("abc", values)})

    for number, some in enumerate((rows[:11], rows[11:])):
        packed = "GZIP" if number else ""
        end = f".tfrecord-{number:05d}-of-00002" + (".gz" if packed else "")
        records(tmp_path / "in" / f"set{end}", map(of, some), packed)
    whole = write(tmp_path / "x.npy", "npy", rows)
    given = [f"--workdir={run}", "--outputs=codes"]
    assert command(*given, f"--input=npy:{whole}", f"--out={tmp_path / 'whole.npz'}") == 0
    assert command(*given, f"--input=tfrecord:{tmp_path / 'in'}", f"--out={tmp_path / 'parts'}", "--part_rows=8") == 0
    found, expected = read(tmp_path / "parts"), whole_of(tmp_path)["codes"]
    assert found["index"] == [*range(11), *range(12)] and len(set(found["file"])) == 2
    np.testing.assert_allclose(found["code_0"], expected[:, 0], rtol=1e-5, atol=1e-6)


def test_records_of_images_are_images(tmp_path):
    run = finished(tmp_path / "run", "vae")[1]
    (tmp_path / "in").mkdir()
    for number, pixels in enumerate((255 * images(5, seed=7)).astype(np.uint8)):
        Image.fromarray(pixels[..., 0]).save(tmp_path / "in" / f"{number}.png")
    source = records(tmp_path / "mine.tfrecord", (example(**{"image/encoded": [path.read_bytes()], "label": [1]})
                                                  for path in sorted((tmp_path / "in").iterdir())))
    given = [f"--workdir={run}", "--part_rows=2"]
    assert command(*given, f"--input=folder:{tmp_path / 'in'}", f"--out={tmp_path / 'whole'}") == 0
    assert command(*given, f"--input={source}", f"--out={tmp_path / 'parts'}") == 0
    found, whole = read(tmp_path / "parts"), read(tmp_path / "whole")
    assert found["index"] == list(range(5)) and "name" not in found
    np.testing.assert_allclose(found["code_0"], whole["code_0"], rtol=1e-5, atol=1e-6)


def test_records_that_are_none_are_told(run, tmp_path, capsys):
    good = example(x=[1.0, 2.0, 3.0])
    cases = {
        "no records": [],
        "2 values in one record": [good, example(x=[1.0, 2.0])],
        "not in the first record": [example(a=[1.0]), example(a=[1.0], b=[1.0])],
        "holds 2 values": [example(a=[1.0], b=[1.0, 2.0])],
        "one image file": [example(image=[3])],
        "not a readable image": [example(image=[b"no image"])],
        "the model takes 3": [example(x=[1.0, 2.0])],
        "not a readable file of TFRecords": [good, b"\xff\xff"],
        "holds bytes": [example(x=[b"a", b"b"])],
        "texts in UTF-8": [example(a=[b"\xff\xfe"])],
        "no features": [example()],
    }
    for number, (words, examples) in enumerate(cases.items()):
        source = records(tmp_path / f"{number}.tfrecord", examples)
        assert command(f"--workdir={run}", f"--input={source}", f"--out={tmp_path / str(number)}", "--part_rows=5") == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error, error
    cut = records(tmp_path / "cut.tfrecord", [good] * 9)
    cut.write_bytes(cut.read_bytes()[:-7])
    parts = [f"--out={tmp_path / 'cut'}", "--part_rows=5"]
    for source, more, words in ((cut, parts, "cut.tfrecord is not a readable"),
                                (cut, [f"--out={tmp_path / 'a.npz'}"], "--part_rows=N"),
                                (f"tfrecord:{run}", parts, "no files that end in .tfrecord")):
        assert command(f"--workdir={run}", f"--input={source}", *more) == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error, error
