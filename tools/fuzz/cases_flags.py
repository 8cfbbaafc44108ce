"""Cases of flags: every flag with values it cannot take, words that are no flags, flag files."""

import kit
import numpy as np
from kit import add, apply, evaluate, export, fifo, link, main, many, write


def table():
    every_flag(kit.FLAGS)
    words()
    flagfiles()


def every_flag(flags):
    if not flags:
        return
    shared = {row["name"]: row for row in flags.get("vae", [])}
    for model in flags:
        if model.startswith("/"):
            base = {
                "/apply": ["--workdir=no_run", "--input=npz:no_file.npz", "--out=o.npz"],
                "/export": ["--workdir=no_run", "--export_dir=e"],
            }.get(model, ["--workdir=no_run"])
            seen = {row["name"] for row in flags["vae"]} if model == "/evaluate" else set()
            own = [row for row in flags[model] if row["name"] not in seen]
            for row in own:
                one_flag(f"flags_{model[1:]}", f"pae_zoo.{model[1:]}", base, row)
            continue
        base = [f"--model={model}", "--dataset=npz:no_file.npz", "--workdir=run", "--download=false"]
        itself = model.removesuffix("_published")  # whose flags an imitation has too
        known = {*shared, *(row["name"] for row in flags.get(itself, []) if itself != model)}
        own = shared.values() if model == "vae" else [row for row in flags[model] if row["name"] not in known]
        for row in own:
            one_flag(f"flags_{model}", "pae_zoo.main", base, row)


def one_flag(family, module, base, row):
    name, kind = row["name"], row["kind"]
    must, may = [], []  # values that must be refused, and values that must end in one line or another
    if kind in ("int", "float"):
        must += ["nan", "inf", "-inf", "", "two", "1,2", "1e999", "0x", "1 2", "--", "١x", "1" * 5000 + "x"]
        low = row["low"] if row["low"] is not None else row["above"]
        if low is not None and low >= 0:
            must += ["-1", "-0.5", f"-{10**30}", "-1e308"] if kind == "float" else ["-1", f"-{10**30}", f"-{2**63}"]
        else:
            may += ["-1"]
        zero = row["low"] is not None and row["low"] > 0 or row["above"] is not None and row["above"] >= 0
        (must if zero else may).append("0")
        if kind == "int":
            must += ["1.5", "1e3", "0.0", "true"]
            may += ["0x10", "1_0", "٣", str(2**63), "9" * 5000]
        else:
            may += ["1e308", "1e-320", "9" * 400]
        if row["high"] is not None:
            must.append(str(row["high"] + 1) if kind == "int" else str(row["high"] * 1.01 + 1e-3))
    if kind == "bool":
        must += ["maybe", "2", "nan", "-1", "ja", "None"]
    if row["choices"]:
        word = str(row["choices"][-1])
        must += [
            "no_such_word",
            f"{word}x",
            word[:-1] if len(word) > 3 else f"{word}_",
            word.upper() if word != word.upper() else "zz",
            f"{word},{word}",
        ]
        may += [f" {word}", "\udcff"]
        if "" not in row["choices"]:
            must.append("")
    if kind == "ints":
        must += ["a", "1,a", "1.5", "nan", "1;2", "0x"]
        may += ["", ",", "-1", str(2**63), ",".join(["1"] * 5000), "9" * 4299, "9" * 5000]
    if kind in ("str", "words") and not row["choices"]:
        may += ["\udcff\udcfe", "x" * 3000, "a\nb", "\x1b[31m", "%s%n", "{0}", "'\"", "~", "*", "$HOME"]
        if name in (
            "dataset",
            "workdir",
            "data_dir",
            "init_workdir",
            "model",
            "export_dir",
            "input",
            "out",
            "workdirs",
            "stability_dir",
            "fid_weights",
            "mask",
        ):
            may = [value for value in may if value not in ("*", "~")]
    if not must and not may:
        return
    must = list(dict.fromkeys(value for value in must if not row["choices"] or value not in map(str, row["choices"])))
    variants = [[*base, f"--{name}={value}"] for value in must + may]
    # A value named in the message as "--name", or "name" where absl words it, or --model / --dataset told by itself.
    sure = len(must)

    def check(asked, found):
        reasons = []
        for number, (argv, (status, _, err)) in enumerate(zip(asked, found)):
            value = argv[-1][:60]
            lines = [line for line in err.splitlines() if line.strip()]
            if "Traceback (most recent call last)" in err:
                last = [line for line in lines if not line.startswith(" ")][-1]
                reasons.append(f"{value}: traceback {last[:150]}")
            elif status not in (0, 2):
                reasons.append(f"{value}: status {status}")
            elif status == 2 and len(lines) > 3:
                reasons.append(f"{value}: {len(lines)} lines")
            elif status == 0:
                reasons.append(f"{value}: status 0 without data")
            elif number < sure and name not in err:
                reasons.append(f"{value}: not refused ({lines[-1][:100] if lines else 'no message'})")
        return reasons

    add(family, name, lambda d: many(module, variants), check_many=check, expect="accept", seconds=60)


def words():
    def case(name, *argv, workdir=True, **how):
        add("words", name, lambda d: main(d, *argv, workdir=workdir), **how)

    case("unknown-flag", "--latnt_dim=2", says="latent_dim")
    case("unknown-flag-nothing-near", "--zzzzzzzz=2", says="zzzzzzzz")
    case("stray-word", "vae", says="vae")
    case("stray-empty-word", "")
    case("stray-dash", "-")
    case("two-dashes-and-a-word", "--", "vae")
    case("flag-without-name", "--=5")
    case("value-missing-at-the-end", "--latent_dim", workdir=False)
    case("name-of-100000-letters", "--" + "x" * 100_000 + "=1", lines=3)
    case("value-of-100000-letters", "--activation=" + "x" * 100_000)
    case("model-of-100000-letters", "--model=" + "x" * 100_000)
    case("not-utf-8", "--model=\udcff")
    case("stray-not-utf-8", "\udcff")
    case("new-line-in-a-name", "--latent\n_dim=2")
    case("20000-flags", *["--latent_dim=x"] * 20_000)
    case("noflag-with-value", "--nojit_compile=3")
    case("bool-with-a-space", "--jit_compile", "false")
    case("no-of-a-number", "--nolatent_dim")
    case("abbreviation", "--latent=3")
    case("model-path", "--model=../../etc/passwd")
    case("model-private", "--model=__init__")
    case("model-base", "--model=base")
    case("model-empty", "--model=")
    case("model-twice-last-bad", "--model=vae", "--model=vea", says="vae")
    case("model-with-a-space", "--model", "vea", says="vae")
    case("precision-and-device-gpu", "--device=gpu", says="gpu")
    for launcher in (evaluate, apply, export):
        name = launcher.__name__
        add("words", f"{name}-nothing", lambda d, launcher=launcher: launcher(d), says="workdir")
        add("words", f"{name}-unknown-flag", lambda d, launcher=launcher: launcher(d, "--wrkdir=x"), says="workdir")
        add("words", f"{name}-stray-word", lambda d, launcher=launcher: launcher(d, "--workdir=x", "y"), says="y")
    add("words", "help-of-an-unknown-model", lambda d: main(d, "--model=vea", "--helpfull"), says="vae")


def flagfiles():
    def case(name, make, *argv, **how):
        how.setdefault("says", ("flagfile", "f.cfg"))
        add("flagfile", name, lambda d: (make(d / "f.cfg"), main(d, f"--flagfile={d}/f.cfg", *argv))[1], **how)

    sound = (
        "--model=ae\n--dataset=digits\n--num_train=64\n--epochs=1\n--batch_size=32\n--hidden_units=8\n--latent_dim=2\n"
        "--tasks=reconstruction\n--nojit_compile\n"
    )
    case("sound", lambda path: write(path, "# a comment\n\n" + sound), expect="accept", seconds=60)
    case("windows-lines", lambda path: write(path, sound.replace("\n", "\r\n")), expect="accept", seconds=60)
    case("byte-order-mark", lambda path: write(path, "\ufeff" + sound), expect="either", seconds=60, says=())
    case("utf-16", lambda path: write(path, sound.encode("utf-16")))
    case("binary", lambda path: write(path, np.random.default_rng(0).bytes(4000)))
    case("latin-1", lambda path: write(path, b"# caf\xe9\n" + sound.encode()), expect="either", seconds=60)
    case("nul-bytes", lambda path: write(path, b"--latent_dim=\x002\n"), says=())
    case("a-png", lambda path: write(path, b"\x89PNG\r\n\x1a\n\xff\xfe\xfd" + bytes(100)))
    case("missing", lambda path: None)
    case("folder", lambda path: path.mkdir())
    case("fifo", fifo)
    case("device-zero", lambda path: link(path, "/dev/zero"))
    case("links-to-itself", lambda path: link(path, path))
    case(
        "includes-itself",
        lambda path: write(path, f"--flagfile={path}\n--dataset=npz:no_file.npz\n"),
        says=("no_file", "flagfile"),
        lines=4,
    )
    case(
        "two-include-each-other",
        lambda path: (
            write(path, f"--flagfile={path}.2\n--dataset=npz:no_file.npz\n"),
            write(f"{path}.2", f"--flagfile={path}\n"),
        ),
        says=("no_file", "flagfile"),
        lines=4,
    )
    case("2-to-the-40-includes", exponential, "--dataset=npz:no_file.npz", says=("flagfile", "no_file"))
    case("chain-of-3000", chain, "--dataset=npz:no_file.npz", says=("flagfile", "no_file"))
    case(
        "line-of-50-MB", lambda path: write(path, b"--latent_dim=" + b"1" * (50 << 20)), says=("latent_dim", "flagfile")
    )
    case("a-million-lines", lambda path: write(path, b"--latent_dim=x\n" * 1_000_000), says=("latent_dim", "flagfile"))
    case("unknown-flag", lambda path: write(path, "--latnt_dim=2\n"), says="latnt_dim")
    case("no-dashes", lambda path: write(path, "latent_dim=2\n"), says="latent_dim")
    case("prose", lambda path: write(path, "Dear all,\nplease find attached\n"), says=("Dear", "flagfile"))
    case("missing-include", lambda path: write(path, "--flagfile=nowhere.cfg\n"), says="nowhere.cfg")
    case("empty-include", lambda path: write(path, "--flagfile=\n"), says="flagfile")
    case("json", lambda path: write(path, '{"latent_dim": 2}'), says=("latent_dim", "flagfile"))
    case("shell-command", lambda path: write(path, "--data_dir=$(touch CANARY)\n--dataset=mnist\n"), says="data_dir")
    add("flagfile", "empty-name", lambda d: main(d, "--flagfile="), says="flagfile")
    add("flagfile", "no-name", lambda d: main(d, "--flagfile", workdir=False), says="flagfile")
    add("flagfile", "home-of-nobody", lambda d: main(d, "--flagfile=~no_such_user_7/x"), says="flagfile")
    add("flagfile", "not-utf-8-name", lambda d: main(d, "--flagfile=\udcff"), says="flagfile")
    add("flagfile", "name-of-5000-letters", lambda d: main(d, f"--flagfile={'x' * 5000}"), says="flagfile", lines=3)
    add("flagfile", "name-with-nul", lambda d: main(d, "--flagfile=a\0b"), says="flagfile")
    for launcher in (evaluate, apply, export):
        name = launcher.__name__
        add(
            "flagfile",
            f"{name}-binary",
            lambda d, launcher=launcher: (
                write(d / "f.cfg", np.random.default_rng(0).bytes(4000)),
                launcher(d, f"--flagfile={d}/f.cfg"),
            )[1],
            says="flagfile",
        )
        add("flagfile", f"{name}-empty-name", lambda d, launcher=launcher: launcher(d, "--flagfile="), says="flagfile")
    add(
        "flagfile",
        "evaluate-fifo",
        lambda d: (fifo(d / "f.cfg"), evaluate(d, f"--flagfile={d}/f.cfg"))[1],
        says="flagfile",
    )


def exponential(path):
    for level in range(40):
        here = path if not level else f"{path}.{level}"
        write(here, f"--flagfile={path}.{level + 1}\n" * 2)
    write(f"{path}.40", "--seed=1\n")


def chain(path):
    for level in range(3000):
        write(path if not level else f"{path}.{level}", f"--flagfile={path}.{level + 1}\n")
    write(f"{path}.3000", "--seed=1\n")
