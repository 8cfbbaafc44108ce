"""Cases: tables as csv and parquet files."""

import gzip
import os

import numpy as np
from kit import add, apply, fifo, run_of, tiny, write

ROWS = [f"{i},{i * i % 37},{'xyz'[i % 3]}" for i in range(60)]


def table():
    csv_cases()
    parquet_cases()
    flags()


def text(header="id,a,kind", rows=ROWS) -> bytes:
    return "\n".join([header, *rows, ""]).encode()


def csv_cases():
    def case(name, body, *flags, ending="csv", **how):
        how.setdefault("says", f"t.{ending}")
        add("csv", name, lambda d: (write(d / f"t.{ending}", body() if callable(body) else body),
                                    tiny(d, f"--dataset={d}/t.{ending}", *flags))[1], **how)  # fmt: skip

    case("sound", text(), expect="accept", seconds=60)
    case("sound-with-labels", text(), "--label_column=kind", "--index_column=id", "--categorical=a", "--columns=-id",
         expect="accept", seconds=60)  # fmt: skip
    case("windows", text(), "--window=4", "--stride=2", expect="accept", seconds=60)
    case("packed", lambda: gzip.compress(text()), ending="csv.gz", expect="accept", seconds=60)
    case("empty", b"")
    case("blank", b"\n\n\n")
    case("header-alone", text(rows=[]))
    case("one-row", text(rows=ROWS[:1]))
    case("two-rows", text(rows=ROWS[:2]))
    case("cut", text()[:-3])
    case("quote-without-end", text() + b'"1,2,x\n' * 9)
    case("cells-missing", text(rows=[*ROWS, "1,2"]))
    case("cells-too-many", text(rows=[*ROWS, "1,2,x,4"]))
    case("empty-cell", text(rows=[*ROWS, "1,,x"]))
    case("nan", text(rows=[*ROWS, "1,nan,x"]))
    case("infinity", text(rows=[*ROWS, "1,-inf,x"]))
    case("huge-number", text(rows=[*ROWS, "1,1e999,x"]))
    case("number-of-a-megabyte", text(rows=[*ROWS, f"1,{'1' * (1 << 20)},x"]))
    case("two-columns-of-a-name", text("id,a,a"))
    case("names-of-100000-letters", text(f"{'i' * 100_000},a,kind"), expect="either", seconds=60)
    case("names-that-are-code", text("{0.__class__},%s%n,__import__('os')"), expect="either", seconds=60, says=())
    case("names-with-escapes", text("\x1b[31mid,a\u202e,kind"), expect="either", seconds=60, says=())
    case("mixed-types", text(rows=[*ROWS, "1,two,x"]))
    case("dates", text(rows=[f"{i},2024-01-{i % 28 + 1:02d},x" for i in range(60)]))
    case("dates-as-numbers", text(rows=[f"{i},202401{i % 28 + 1:02d},{'xy'[i % 2]}" for i in range(60)]))
    case("all-constant", text(rows=["1,2,x"] * 60))
    case("names-of-rows", text(rows=[f"{i},1,n{i}" for i in range(60)]))
    case("label-is-the-identity", text(), "--label_column=id")
    case("no-such-column", text(), "--columns=a,nothing")
    case("no-such-label", text(), "--label_column=Kind")
    case("condition-without-labels", text(), "--model=vae", "--condition=label", says="needs labels")
    case("windows-longer-than-the-series", text(), "--window=1000")
    case("windows-of-half-the-series", text(), "--window=30")
    case("numbers-as-labels", text(rows=[f"{i / 7},{i % 5},{'xy'[i % 2]}" for i in range(60)]), "--label_column=id")
    case("10000-columns", lambda: text(",".join(f"c{i}" for i in range(10_000)),
                                       [",".join([str(i)] * 10_000) for i in range(20)]))  # fmt: skip
    case("a-million-columns", lambda: text(",".join(f"c{i}" for i in range(10**6)), [",".join(["1"] * 10**6)] * 3))
    case("utf-16", text().decode().encode("utf-16"))
    case("latin-1", text("id,größe,kind").decode().encode("latin-1"))
    case("zeros", bytes(1 << 20))
    case("noise", lambda: np.random.default_rng(0).bytes(1 << 16))
    case("a-line-of-64-MiB", lambda: text(rows=["1" * (64 << 20)]))
    case("1000000-categories", lambda: text(rows=[f"1,2,c{i}" for i in range(10**6)]), "--categorical=kind")
    case("bomb", lambda: gzip.compress(b"a,b\n" + b"1,2\n" * (48 << 20)), ending="csv.gz", seconds=60)
    case("packed-zeros", lambda: gzip.compress(bytes(1 << 29)), ending="csv.gz", seconds=60)
    case("no-gzip", text(), ending="csv.gz")
    case("gzip-cut", lambda: gzip.compress(text())[:-9], ending="csv.gz")
    add("csv", "pipe", lambda d: (fifo(d / "t.csv"), tiny(d, f"--dataset={d}/t.csv"))[1], says="pipe")
    add("csv", "folder", lambda d: (os.mkdir(d / "t.csv"), tiny(d, f"--dataset=csv:{d}/t.csv"))[1], says="folder")
    add("csv", "missing", lambda d: tiny(d, f"--dataset={d}/t.csv"), says="does not exist")


def parquet_cases():
    def body(**columns) -> bytes:
        import pyarrow
        from pyarrow import parquet

        sink = pyarrow.BufferOutputStream()
        parquet.write_table(pyarrow.table(columns), sink)
        return sink.getvalue().to_pybytes()

    def sound() -> bytes:
        return body(a=np.arange(60.0), b=np.arange(60) % 7, kind=["x", "y", "z"] * 20)

    def case(name, make, *flags, **how):
        how.setdefault("says", "t.parquet")
        add("parquet", name, lambda d: (write(d / "t.parquet", make()),
                                        tiny(d, f"--dataset={d}/t.parquet", *flags))[1], **how)  # fmt: skip

    case("sound", sound, expect="accept", seconds=60)
    case("empty", lambda: b"")
    case("marks-alone", lambda: b"PAR1" * 2)
    case("zeros", lambda: b"PAR1" + bytes(4096) + b"PAR1")
    case("footer-claims-2-GiB", lambda: sound()[:-8] + b"\xff\xff\xff\x7fPAR1")
    for place in range(0, 1600, 100):
        case(f"damaged-at-{place}", lambda place=place: sound()[:place] + b"\xff" * 40 + sound()[place + 40 :],
             expect="either", seconds=60)  # fmt: skip
    for length in (10, 500, 1000):
        case(f"cut-after-{length}", lambda length=length: sound()[:length])
    case("no-rows", lambda: body(a=np.zeros(0)))
    case("nested", lambda: body(a=[[1, 2]] * 60, b=np.arange(60)))
    case("bytes", lambda: body(a=[b"\0\xff"] * 60, b=np.arange(60)))
    case("nothing-but-null", lambda: body(a=[None] * 60, b=np.arange(60)))
    case("dates", lambda: body(a=np.arange("2024-01-01", "2024-03-01", dtype="datetime64[D]"), b=np.arange(60)))
    case("a-hundred-million-zeros", _repeated, seconds=60)


def _repeated() -> bytes:
    """A file of some hundred KiB whose one column is a hundred million times the same number."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    part = pyarrow.table({"a": np.zeros(10_000_000)})
    with parquet.ParquetWriter(sink, part.schema, compression="zstd", compression_level=3) as writer:
        for _ in range(10):
            writer.write_table(part)
    return sink.getvalue().to_pybytes()


def flags():
    def digits(name, *given, **how):
        add("tables", name, lambda d: tiny(d, *given), **how)

    digits("label-of-images", "--label_column=x", says="tables alone")
    digits("windows-of-images", "--window=3", says="tables alone")
    digits("mask", "--missing=mask", says="missing")
    digits("labels-too-few", "--model=vae", "--condition=label", "--num_labels=3", says="labels up to 9")
    digits("labels-of-vamp", "--model=vae", "--condition=label", "--prior=vamp", says="no labels")
    digits("condition", "--model=vae", "--condition=labels", says="allowed: none, label")
    digits("stride-alone", "--stride=3", says="stride")
    add("tables", "applied-to-images", lambda d: (write(d / "t.csv", text()), apply(
        d, f"--workdir={run_of('vae', d)}", f"--input={d}/t.csv", f"--out={d}/o.npz"))[1], says="t.csv")  # fmt: skip
