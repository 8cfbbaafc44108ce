"""Cases: words that name tasks, sets, outputs and masks, and files of masks."""

import os
import pickle

import numpy as np
from kit import (
    Canary,
    add,
    apply,
    fifo,
    link,
    npy,
    npy_header,
    object_npy,
    pictures,
    png,
    raw_png,
    run_of,
    savez,
    tiny,
    truncated,
    with_flags,
    with_method,
    write,
    zero_zip,
    zipped,
)


def table():
    tasks()


def tasks():
    def case(name, *argv, **how):
        add("tasks", name, lambda d: tiny(d, *argv, model="vae"), **how)

    case("unknown-task", "--tasks=reconstrction", says="reconstruction")
    case("empty-and-unknown", "--tasks=reconstruction,,odd", says="ood")
    case("task-upper", "--tasks=OOD", says="ood")
    case("task-private", "--tasks=context", says="context")
    case("task-dunder", "--tasks=__init__", says="__init__")
    case("ood-unknown", "--tasks=ood", "--ood_datasets=nois", says="noise")
    case("ood-missing-set", "--tasks=ood", "--ood_datasets=npz:no_file.npz", says="no_file")
    case("ood-vectors", "--tasks=ood", "--ood_datasets=circle", expect="told", says="circle", seconds=60)
    case("ood-empty-word", "--tasks=ood", "--ood_datasets=,", expect="either", seconds=60)
    case("imputation-mask-unknown", "--tasks=imputation", "--imputation_masks=hafl", says="half")
    case(
        "imputation-mask-beyond",
        "--tasks=imputation",
        "--imputation_masks=columns:0-99",
        expect="told",
        says="columns",
        seconds=60,
    )
    case("labels-per-class-0", "--tasks=downstream", "--labels_per_class=0", says="labels_per_class")
    case("labels-per-class-negative", "--tasks=downstream", "--labels_per_class=-5", says="labels_per_class")
    case(
        "fid-weights-missing",
        "--tasks=generation",
        "--fid_weights=no_file.h5",
        says="no_file",
        expect="told",
        seconds=60,
    )
    case("fid-weights-ending", "--tasks=generation", "--fid_weights=x.txt", says="fid_weights")
    for mask in (
        "columns:9-3",
        "columns:0-99",
        "rows:-1-2",
        "rectangle:0,0,0,0",
        "rectangle:1,2,3",
        "pixels:1.0",
        "pixels:nan",
        "pixels:-0.1",
        "columns:99999999999999999999",
        "cols:1-2",
        "columns:",
        "pixels:0.5:2",
        "rectangle:0,0,8,8",
        "none:1",
        "columns:0-7",
        "no_file.npy",
    ):
        case(f"mask-{mask[:20]}", "--tasks=restoration", f"--mask={mask}", says="mask", expect="told", seconds=60)
    case("noise-alone", "--noise=0.5", expect="either", seconds=60)
    case("stability-of-one", "--tasks=distance_stability", expect="either", seconds=60)

    def use(name, *argv, **how):
        add(
            "tasks",
            f"apply-{name}",
            lambda d: (
                run_of("vae", d),
                apply(d, f"--workdir={d}/run", f"--input=folder:{pictures(d)}", f"--out={d}/o.npz", *argv),
            )[1],
            **how,
        )

    use("unknown-output", "--outputs=kodes", says="codes")
    use("no-output", "--outputs=", says="outputs")
    use("rate-without-anomalies", "--outputs=codes", "--fdr=0.1", says="anomalies")
    use("rate-of-one", "--outputs=anomalies", "--fdr=1", says="fdr")
    use("mask-without-restoration", "--mask=none", says="restoration")
    use("restoration-without-mask", "--outputs=restoration", says="mask")
    use("crop-nonsense", "--crop=a", says="crop")
    use("grey-of-grey", "--grey", expect="either", seconds=60)
    use("image_size-16", "--image_size=16", says="image_size")
    add(
        "tasks",
        "apply-input-nonsense",
        lambda d: (run_of("vae", d), apply(d, f"--workdir={d}/run", "--input=x", "--out=o.npz"))[1],
        says="input",
    )
    add(
        "tasks",
        "apply-input-a-named-set",
        lambda d: (run_of("vae", d), apply(d, f"--workdir={d}/run", "--input=digits", "--out=o.npz"))[1],
        says="input",
    )
    # masks from files

    def mask(name, file, make, **how):
        how.setdefault("says", ("mask", file))
        how.setdefault("seconds", 30)
        add(
            "mask",
            name,
            lambda d: (
                make(d / file),
                run_of("vae", d),
                apply(
                    d,
                    f"--workdir={d}/run",
                    f"--input=folder:{pictures(d)}",
                    f"--out={d}/o.npz",
                    "--outputs=restoration",
                    "--restoration_starts=0",
                    "--restoration_draws=4",
                    "--restoration_posterior=laplace",
                    f"--mask={d}/{file}",
                ),
            )[2],
            **how,
        )

    half = np.ones((8, 8), bool)
    half[:, :4] = False
    mask("sound-npy", "m.npy", lambda path: write(path, npy(half)), expect="accept", seconds=60)
    mask("sound-npz", "m.npz", lambda path: savez(path, mask=half), expect="accept", seconds=60)
    mask("npy-claims-1-TiB", "m.npy", lambda path: write(path, npy_header("|u1", (1 << 40,)) + bytes(64)))
    mask("npy-claims-8-GiB", "m.npy", lambda path: write(path, npy_header("|u1", (1 << 33,)) + bytes(64)))
    mask("npy-claims-1e30", "m.npy", lambda path: write(path, npy_header("|u1", (10**30,)) + bytes(64)))
    mask(
        "npz-claims-1-TiB", "m.npz", lambda path: zipped(path, {"mask.npy": npy_header("|u1", (1 << 40,)) + bytes(64)})
    )
    mask("npy-pickled", "m.npy", lambda path: write(path, object_npy(path.parent / "CANARY")))
    mask("npz-pickled", "m.npz", lambda path: zipped(path, {"mask.npy": object_npy(path.parent / "CANARY")}))
    mask("npy-is-a-pickle", "m.npy", lambda path: write(path, pickle.dumps(Canary(path.parent / "CANARY"))))
    mask("npz-method-99", "m.npz", lambda path: with_method(savez(path, mask=half), 99))
    mask("npz-encrypted", "m.npz", lambda path: with_flags(savez(path, mask=half), 1))
    mask("npz-deflate-on-stored", "m.npz", lambda path: with_method(savez(path, mask=half), 8))
    mask(
        "npz-bomb",
        "m.npz",
        lambda path: zero_zip(path, "mask.npy", npy_header("|u1", (3584 << 20,)), 3584 << 20),
        seconds=60,
    )
    mask("npz-of-nothing", "m.npz", lambda path: zipped(path, {}))
    mask("npz-member-is-no-array", "m.npz", lambda path: zipped(path, {"mask": b"text"}))
    mask("npz-two-arrays", "m.npz", lambda path: savez(path, a=half, b=half))
    mask("npz-truncated", "m.npz", lambda path: truncated(savez(path, mask=half)))
    mask("npy-0-bytes", "m.npy", lambda path: write(path, b""))
    mask("npy-text", "m.npy", lambda path: write(path, "1 0 1"))
    mask("npy-header-nested", "m.npy", lambda path: write(path, npy_header(text="(" * 9000 + ")" * 9000)))
    mask(
        "npy-header-60000",
        "m.npy",
        lambda path: write(path, npy_header("|u1", (8, 8)).replace(b"{", b" " * 9 + b"{") + bytes(64)),
    )
    mask("fifo-npy", "m.npy", fifo)
    mask("fifo-png", "m.png", fifo)
    mask("device-npy", "m.npy", lambda path: link(path, "/dev/zero"))
    mask("folder-npy", "m.npy", lambda path: path.mkdir())
    mask("link-to-itself", "m.npy", lambda path: link(path, path))
    mask("nan", "m.npy", lambda path: write(path, npy(np.full((8, 8), np.nan))))
    mask("halves", "m.npy", lambda path: write(path, npy(np.full((8, 8), 0.5))))
    mask("text-array", "m.npy", lambda path: write(path, npy(np.full((8, 8), "a"))))
    mask("complex", "m.npy", lambda path: write(path, npy(half * 1j)))
    mask("all-hidden", "m.npy", lambda path: write(path, npy(np.zeros((8, 8), bool))))
    mask("empty-array", "m.npy", lambda path: write(path, npy(np.zeros((0,)))))
    mask("scalar", "m.npy", lambda path: write(path, npy(np.ones(()))))
    mask("other-shape", "m.npy", lambda path: write(path, npy(np.ones((9, 9)))))
    mask("one-per-datum-too-few", "m.npy", lambda path: write(path, npy(np.ones((4, 8, 8)))))
    mask("structured", "m.npy", lambda path: write(path, npy(np.zeros((8, 8), [("a", "u1")]))))
    mask("png-truncated", "m.png", lambda path: write(path, png()[:-30]))
    mask("png-grey-levels", "m.png", lambda path: write(path, png()))
    mask("png-text", "m.png", lambda path: write(path, "x"))
    mask("png-claims-2e9", "m.png", lambda path: write(path, raw_png(2**31 - 1, 2**31 - 1)))
    mask("png-claims-30000", "m.png", lambda path: write(path, raw_png(30000, 30000)))
    mask(
        "not-allowed-to-read",
        "m.npy",
        lambda path: (write(path, npy(half)), os.chmod(path, 0)),
        expect="either",
        seconds=60,
    )
