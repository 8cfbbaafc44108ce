"""Cases: sweeps, the command pae-zoo, and files that Python calls read."""

import pickle

import numpy as np
from kit import (
    BASE_FLAGS,
    TINY,
    Canary,
    add,
    call,
    command,
    evaluate,
    fifo,
    npy_header,
    object_npy,
    run_of,
    savez,
    sweep,
    truncated,
    with_flags,
    with_method,
    write,
    zipped,
)


def table():
    sweeps()
    commands()
    python_files()


def sweeps():
    common = ["--", "--dataset=digits", *TINY]

    def case(name, *argv, **how):
        how.setdefault("lines", 3)
        add("sweep", name, lambda d: sweep(d, *[str(word).format(d=d) for word in argv], tree=True), **how)

    case("sound", "--grid", "model=ae", "--out={d}/s", *common, "--model=ae", expect="accept", seconds=90)
    case("nothing", says="out")
    case("grid-nonsense", "--grid", "xyz", "--out={d}/s", says="grid")
    case("grid-twice", "--grid", "latent_dim=2 latent_dim=3", "--out={d}/s", says="grid")
    case("grid-seed", "--grid", "seed=1,2", "--out={d}/s", says="seeds")
    case("grid-bad-value", "--grid", "latent_dim=0", "--out={d}/s", says="latent_dim")
    case("grid-bad-model", "--grid", "model=vea", "--out={d}/s", says="vae")
    case(
        "grid-of-1e12-points",
        "--grid",
        " ".join(f"f{i}=1,2,3,4,5,6,7,8,9,0" for i in range(12)),
        "--out={d}/s",
        says="grid",
    )
    case("seeds-text", "--grid", "model=ae", "--seeds=a", "--out={d}/s", says="seeds")
    case("seeds-twice", "--grid", "model=ae", "--seeds=1,1", "--out={d}/s", says="seeds")
    case("seeds-empty", "--grid", "model=ae", "--seeds=", "--out={d}/s", says="seeds")
    case("seeds-huge", "--grid", "model=ae", "--seeds=99999999999999999999", "--out={d}/s", says="seed")
    case("out-proc", "--grid", "model=ae", "--out=/proc/x", *common, says=("out", "proc"), seconds=60)
    case("out-under-a-file", "--grid", "model=ae", "--out=/etc/passwd/x", *common, says=("out", "passwd"), seconds=60)
    case(
        "point-of-300-letters",
        "--grid",
        "activation=" + "n" * 300,
        "--out={d}/s",
        *common,
        says=("out", "grid", "activation"),
        seconds=60,
    )
    case("common-workdir", "--grid", "model=ae", "--out={d}/s", "--", "--workdir=x", says="out")
    case("common-help", "--grid", "model=ae", "--out={d}/s", "--", "--help", says="help")
    case("common-bad-flagfile", "--grid", "model=ae", "--out={d}/s", "--", "--flagfile=no_file.cfg", says="no_file")
    case("unknown-option", "--grdi", "model=ae", "--out={d}/s", says="grdi")
    add(
        "sweep",
        "out-holds-a-broken-run",
        lambda d: (
            run_of("vae", d, "s/model=vae/0"),
            write(d / "s/model=vae/0/config.json", "{"),
            sweep(d, "--grid", "model=vae", f"--out={d}/s", tree=True),
        )[2],
        says="config.json",
    )
    add(
        "sweep",
        "out-holds-broken-metrics",
        lambda d: (
            (d / "s/model=vae").mkdir(parents=True),
            run_of("vae", d, "s/model=vae/0"),
            write(d / "s/model=vae/0/metrics.json", "[]"),
            sweep(d, "--grid", "model=vae", f"--out={d}/s", "--", *BASE_FLAGS["vae"][1:], tree=True),
        )[3],
        expect="clean",
        says=(),
        seconds=60,
    )


def commands():
    words = {
        "near": ("trian", "train"),
        "long": ("n" * 5000, "unknown command"),
        "empty": ("", "''"),
        "flag": ("--model=vae", "--model=vae"),
        "path": ("../train", "unknown command"),
    }
    for name, (word, says) in words.items():
        add("command", name, lambda d, word=word: command(d, word, "--dataset=digits"), says=says)
    add("command", "bad-flag-behind-it", lambda d: command(d, "train", "--modl=vae"), says="--modl")


def python_files():
    load = "from pae_zoo.curvature.posteriors.base import WeightPosterior\nWeightPosterior.load(D + '/p.npz')"
    features = "from pae_zoo.evaluation import features\nfeatures.load(D + '/p.npz')"

    def case(name, make, **how):
        for kind, code in (("posterior", load), ("features", features)):
            add(
                "python",
                f"{kind}-{name}",
                lambda d, code=code: (make(d, d / "p.npz"), call(code))[1],
                **{"says": "p.npz", **how},
            )

    case(
        "pickled",
        lambda d, path: zipped(path, {"posterior.npy": object_npy(d / "CANARY"), "note.npy": object_npy(d / "CANARY")}),
    )
    case("a-pickle", lambda d, path: write(path, pickle.dumps(Canary(d / "CANARY"))))
    case("0-bytes", lambda d, path: write(path, b""))
    case("text", lambda d, path: write(path, "hello"))
    case("missing", lambda d, path: None)
    case("without-a-note", lambda d, path: savez(path, a=np.zeros(3)))
    case("note-is-no-json", lambda d, path: savez(path, posterior=np.array("{{"), note=np.array("{{")))
    case("note-is-a-list", lambda d, path: savez(path, posterior=np.array("[]"), note=np.array("[]")))
    case(
        "note-names-a-class",
        lambda d, path: savez(
            path, posterior=np.array('{"class": "system", "config": {}}'), note=np.array('{"class": "system"}')
        ),
    )
    case(
        "note-config-null",
        lambda d, path: savez(
            path, posterior=np.array('{"class": "DiagPosterior", "config": null}'), note=np.array("null")
        ),
    )
    case(
        "claims-1-TiB",
        lambda d, path: zipped(
            path,
            {
                "posterior.npy": npy_header("|u1", (1 << 40,)) + bytes(64),
                "note.npy": npy_header("|u1", (1 << 40,)) + bytes(64),
            },
        ),
    )
    case("method-99", lambda d, path: with_method(savez(path, posterior=np.array("{}")), 99))
    case("encrypted", lambda d, path: with_flags(savez(path, posterior=np.array("{}")), 1))
    case("truncated", lambda d, path: truncated(savez(path, posterior=np.array("{}"))))
    case("fifo", lambda d, path: fifo(path))
    case("folder", lambda d, path: path.mkdir())
    add(
        "python",
        "fid-weights-of-a-run-hostile",
        lambda d: (
            run_of("vae", d),
            zipped(d / "w.npz", {"note.npy": object_npy(d / "CANARY")}),
            evaluate(d, f"--workdir={d}/run", "--tasks=generation", f"--fid_weights={d}/w.npz"),
        )[2],
        expect="told",
        says="w.npz",
        seconds=60,
    )
    for name, content in (
        ("h5-text", b"hello"),
        ("h5-empty", b""),
        ("pb-random", np.random.default_rng(0).bytes(5000)),
    ):
        file = f"w.{name[:2].replace('pb', 'pb')}" if name.startswith("h5") else "w.pb"
        add(
            "python",
            f"fid-weights-{name}",
            lambda d, file=file, content=content: (
                run_of("vae", d),
                write(d / file, content),
                evaluate(d, f"--workdir={d}/run", "--tasks=generation", f"--fid_weights={d}/{file}"),
            )[2],
            expect="told",
            says=file,
            seconds=60,
        )
