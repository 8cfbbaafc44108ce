"""Tables: what columns become, in the order of the rows, and what is refused."""

import gzip

import numpy as np
import pytest

from pae_zoo import data
from pae_zoo.core.errors import UserError
from pae_zoo.data import tables

RNG = np.random.default_rng(0)
NUMBERS = RNG.normal(size=(60, 2)).astype(np.float32) * [1, 1000]
COLOURS = RNG.choice(["red", "green", "blue"], 60).tolist()
KINDS = RNG.choice(["yes", "no"], 60).tolist()
HEADER = "name,a,b,colour,kind"
ROWS = [f"row {i},{a:.9g},{b:.9g},{c},{k}" for i, ((a, b), c, k) in enumerate(zip(NUMBERS, COLOURS, KINDS))]


def write(path, lines=(HEADER, *ROWS), end="\n"):
    path.write_text(end.join(lines) + end, encoding="utf-8", newline="")
    return str(path)


def everything(loaded):
    """All rows of the three splits."""
    return np.concatenate([loaded.train.x, loaded.valid.x, loaded.test.x])


def test_columns_become_numbers_and_one_for_each_category(tmp_path):
    """Rows of the splits are those of the rule for arrays; labels are numbered by the alphabet and keep their names."""
    loaded = data.load(write(tmp_path / "t.csv"), index_column="name", label_column="kind")
    assert loaded.name == f"csv:{tmp_path}/t.csv" and loaded.slug == "csv-t" and loaded.event_shape == (5,)
    assert loaded.table.outputs == ["a", "b", "colour=blue", "colour=green", "colour=red"]
    expected = np.concatenate([NUMBERS, np.equal(np.array(COLOURS)[:, None], ["blue", "green", "red"])], axis=1)
    held_out = np.sort(np.random.default_rng(42).permutation(60)[-10:])
    np.testing.assert_array_equal(loaded.test.x, expected[held_out].astype(np.float32))
    assert loaded.label_names == ("no", "yes")
    np.testing.assert_array_equal(loaded.test.y, np.equal(KINDS, "yes")[held_out])
    assert loaded.train.x.dtype == np.float32 and len(loaded.train) + len(loaded.valid) == 50
    assert loaded.info.value_range == "reals"


def test_columns_have_kinds(tmp_path):
    """Whole numbers that vary like a Poisson are counts, those that hardly vary, and negative ones, reals."""
    rng = np.random.default_rng(1)
    rows = zip(rng.normal(size=60).round(3), rng.poisson(4, 60), rng.integers(2, size=60), COLOURS,
               rng.integers(1990, 2020, 60), rng.integers(-3, 3, 60))  # fmt: skip
    path = write(tmp_path / "t.csv", ["a,n,bit,colour,year,change", *(",".join(map(str, row)) for row in rows)])
    table = data.load(path).table
    assert table.kinds == ("real", "count", "binary", "category:3", "real", "real")
    again = tables.Schema.from_json(table.to_json())
    assert again == table and again.kinds == table.kinds
    assert data.load(path, columns=("a", "n"), window=2).table.kinds == ()


@pytest.mark.parametrize("change", ["tab", "semicolon", "crlf", "bom", "gz", "quoted", "blank lines", "parquet"])
def test_forms_of_a_file_are_the_same_table(tmp_path, change):
    plain = data.load(write(tmp_path / "t.csv"), columns=("-name",))
    lines, path = [HEADER, *ROWS], tmp_path / "u.csv"
    if change == "parquet":
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        path = tmp_path / "u.parquet"
        columns = {"name": [f"row {i}" for i in range(60)], "a": NUMBERS[:, 0], "b": NUMBERS[:, 1].astype(np.float32),
                   "colour": pyarrow.array(COLOURS).dictionary_encode(), "kind": KINDS}  # fmt: skip
        parquet.write_table(pyarrow.table(columns), path, row_group_size=17)
    elif change == "gz":
        path = tmp_path / "u.csv.gz"
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    elif change == "quoted":
        write(path, [",".join(f'"{cell}"' for cell in line.split(",")).replace("row 3", "row\n3") for line in lines])
    elif change == "blank lines":
        write(path, [*lines[:3], "", *lines[3:], "", ""])
    else:
        sign = {"tab": "\t", "semicolon": ";"}.get(change, ",")
        write(path, [("\ufeff" if change == "bom" else "") + line.replace(",", sign) if not number else
                     line.replace(",", sign) for number, line in enumerate(lines)],
              "\r\n" if change == "crlf" else "\n")  # fmt: skip
    loaded = data.load(path, columns=("-name",))
    np.testing.assert_allclose(everything(loaded), everything(plain), rtol=1e-6)
    assert loaded.table == plain.table


def test_settings_choose_columns(tmp_path):
    path = write(tmp_path / "t.csv", ["a,b,c", *[f"{i % 3},{i * i},{i % 2}" for i in range(40)]])
    assert data.load(path).table.outputs == ["a", "b", "c"]
    assert data.load(path, columns=("c", "a")).table.outputs == ["a", "c"]
    assert data.load(path, columns=("-b",)).table.outputs == ["a", "c"]
    assert data.load(path, columns=("-b",), categorical=("a",)).table.outputs == ["a=0", "a=1", "a=2", "c"]
    labelled = data.load(path, label_column="a")  # whole numbers stay what they are
    assert labelled.table.outputs == ["b", "c"] and labelled.label_names == ()
    assert set(labelled.train.y) == {0, 1, 2}
    assert len(data.load(path, label_column="a", classes=(0, 2)).test) < len(labelled.test)
    bare = data.load(write(tmp_path / "bare.csv", [f"{i % 3},{i * i}" for i in range(40)]))
    assert bare.table.outputs == ["column_0", "column_1"] and len(everything(bare)) == 40
    assert "no header line" in bare.info.notes[0]


def test_what_says_nothing_is_left_out_and_told(tmp_path):
    """Constants and copies are those of the training rows; a category that these lack is 0 everywhere, and counted."""
    held_out = np.sort(np.random.default_rng(42).permutation(40)[-7:])
    rare = ["z" if i in held_out else "xy"[i % 2] for i in range(40)]
    nearly = [i if i in held_out else 7 for i in range(40)]
    lines = [f"{i * i},{i * i}.0,5,{nearly[i]},{rare[i]}" for i in range(40)]
    loaded = data.load(write(tmp_path / "t.csv", ["a,copy,five,nearly,rare", *lines]))
    assert loaded.table.outputs == ["a", "rare=x", "rare=y"]
    notes = " | ".join(loaded.info.notes)
    for words in ("2 columns five, nearly, constant", "column copy (a), the same", "'rare': 7 values are in no"):
        assert words in notes
    np.testing.assert_array_equal(loaded.test.x[:, 1:], 0)


def test_a_schema_finds_columns_by_name(tmp_path):
    """Another table, its columns in another order, becomes what the first would; a schema survives its own JSON."""
    first = data.load(write(tmp_path / "t.csv"), index_column="name", label_column="kind")
    assert tables.Schema.from_json(first.table.to_json()) == first.table
    lines = ["colour,more,b,a", *[f"{c},1,{b:.9g},{a:.9g}" for (a, b), c in zip(NUMBERS, COLOURS)]]
    path = write(tmp_path / "u.csv", lines)
    second = data.load(path, schema=first.table)
    np.testing.assert_array_equal(second.test.x, first.test.x)
    with pytest.raises(UserError, match="lacks 1 of the 3 columns of the run: b"):
        data.load(write(tmp_path / "v.csv", [line.replace("b", "c", 1) for line in lines]), schema=first.table)


BAD = {
    "no such column": ("a,b", "1,2", dict(columns=("c",)), "no column 'c'; its columns: a, b"),
    "no such label": ("a,b", "1,2", dict(label_column="B"), "did you mean b"),
    "two of a name": ("a,a", "1,2", {}, "two columns called 'a'"),
    "an empty cell": ("a,b", "1,", {}, "line 2: column 'b' is empty"),
    "nan": ("a,b", "1,nan", {}, "column 'b' is empty"),
    "infinity": ("a,b", "1,inf", {}, "float32 cannot"),
    "beyond float32": ("a,b", "1,1e300", {}, "float32 cannot"),
    "dates": ("a,b", "1,2024-01-31", {}, "dates or times, such as 2024-01-31"),
    "short line": ("a,b,c", "1,2", {}, "line 2 has 2 cells, the header 3"),
    "no data": ("a", "1", dict(label_column="a"), "no columns of data left"),
    "mixed signs": ("a,b", "1,2", dict(columns=("a", "-b")), "mixes columns"),
    "unknown missing": ("a,b", "1,2", dict(missing="drop"), "missing"),
    "stride alone": ("a,b", "1,2", dict(stride=2), "needs window"),
    "windows too long": ("a,b", "1,2", dict(window=20), "windows of 20 need at least 60"),
    "constant": ("a,b", "1,2", {}, "all 2 columns are constant"),
    "cropped": ("a,b", "1,2", dict(image_size=4), "is a table"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused(tmp_path, case):
    header, row, settings, words = BAD[case]
    with pytest.raises(UserError, match=words):
        data.load(write(tmp_path / "t.csv", [header, *[row] * 30]), **settings)


def test_columns_that_are_no_data_are_refused(tmp_path):
    """Names of rows, dates in the guise of numbers, numbers among texts, labels that tell every row apart."""
    def refused(column, words, **settings):
        path = write(tmp_path / "t.csv", ["a,c", *[f"{i * i},{value}" for i, value in enumerate(column)]])
        with pytest.raises(UserError, match=words):
            data.load(path, **settings)
        return path

    refused([f"r{i}" for i in range(30)], "another text in each of 30 rows")
    refused([f"r{i}" for i in range(130)], "more than 100 different values")
    days = np.arange("2024-01-20", "2024-02-20", dtype="datetime64[D]")
    path = refused([str(day).replace("-", "") for day in days], "dates or times, such as 20240120")
    assert data.load(path, columns=("a", "c")).event_shape == (2,)
    refused(["1", "2", "three", *range(30)], "line 4: column 'c' holds numbers and texts, such as 'three'")
    refused([*"12", *["x"] * 5000], "line 4: column 'c' holds numbers and texts")
    refused([*range(5000), "x"], "line 5002: column 'c' holds numbers and texts")
    refused([f"r{i}" for i in range(30)], "another value in each of 30 rows", label_column="c")
    refused(["yes", ""] * 20, "label column 'c' is empty", label_column="c")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_broken_files_are_told(tmp_path, kind):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"t.{kind}"
    bodies = [b"", b"\0" * 4096, RNG.integers(0, 256, 4096).astype(np.uint8).tobytes(), b'a,b\n1,"2\n' * 3]
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({"a": np.arange(999.0)}), path)
        whole = path.read_bytes()
        bodies = [*bodies, whole[:-20], whole[:500] + bytes(100) + whole[600:], whole[1000:]]
    for body in bodies:
        path.write_bytes(body)
        with pytest.raises(UserError, match=r"t\.(csv|parquet)"):
            data.load(path)
    with pytest.raises(UserError, match="does not exist"):
        data.load(tmp_path / f"none.{kind}")


def test_bombs_and_long_lines_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * (3 << 20)))
    monkeypatch.setattr(tables.reading, "_FREE", 1 << 20)
    with pytest.raises(UserError, match="would grow"):
        data.load(path)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="a line of more than 1,000 letters"):
        patch.setattr(tables.reading, "_LONGEST_LINE", 1000)
        data.load(write(tmp_path / "u.csv", ["a,b", "1" * (3 << 20)]))
    wide = write(tmp_path / "w.csv", [",".join(f"c{i}" for i in range(10_000)), *[",".join("12" * 5000)] * 4])
    with pytest.raises(UserError, match="10,000 columns; a table has at most 5,000"):
        data.load(wide)
    assert data.load(write(tmp_path / "v.csv"), columns=("a", "b")).event_shape == (2,)


def test_settings_of_tables_are_for_tables():
    with pytest.raises(UserError, match="label_column: for tables alone"):
        data.load("digits", label_column="x")


def test_names_by_their_endings(tmp_path):
    for name, full in (("a/b.CSV", "csv:a/b.CSV"), ("b.tsv.gz", "csv:b.tsv.gz"), ("x.pq", "parquet:x.pq"),
                       ("x.npy", "npy:x.npy"), ("x.npz", "npz:x.npz"), ("digits", "digits"), ("pics/", "folder:pics/"),
                       (f"{tmp_path}", f"folder:{tmp_path}"), ("npz:x.csv", "npz:x.csv"), ("csv", "csv")):  # fmt: skip
        assert data.full_name(name) == full
    np.save(tmp_path / "x.npy", NUMBERS)
    loaded = data.load(tmp_path / "x.npy")
    assert loaded.slug == "npy-x" and loaded.event_shape == (2,) and len(everything(loaded)) == 60
