"""Cases: damaged files of a run."""

import json
import pickle

import numpy as np
from kit import (
    Canary,
    add,
    again,
    apply,
    base,
    emptied,
    evaluate,
    export,
    fifo,
    flipped,
    npy,
    npy_header,
    picture_folder,
    randomised,
    resume,
    run_of,
    savez,
    tiny,
    truncated,
    write,
    zipped,
)


def table():
    damaged()
    wrong_configs()
    wrong_checkpoints()


DAMAGE = {
    "zero": emptied,
    "half": truncated,
    "random": randomised,
    "flipped-0": flipped,
    "flipped-1": lambda path: flipped(path, 1, 3),
    "missing-1-byte": lambda path: truncated(path, path.stat().st_size - 1),
}


def unfinished(d):
    for name in ("metrics.json", "model.keras"):
        if (d / "run" / name).exists():
            (d / "run" / name).unlink()


def damaged():
    commands = {
        "resume": lambda d: resume(d),
        "finish": lambda d: (unfinished(d), again(d))[1],
        "again": lambda d: again(d),
        "evaluate": lambda d: evaluate(d, f"--workdir={d}/run", "--tasks=reconstruction"),
        "apply": lambda d: apply(
            d, f"--workdir={d}/run", f"--input=folder:{picture_folder(d / 'pics', 5)}", f"--out={d}/o.npz"
        ),
        "export": lambda d: export(d, f"--workdir={d}/run", f"--export_dir={d}/e"),
        "init": lambda d: tiny(d, f"--init_workdir={d}/run", f"--workdir={d}/new", model="vae"),
    }
    plan = {
        "config.json": ("resume", "evaluate", "apply", "export", "init"),
        "metrics.json": ("resume", "again", "evaluate"),
        "metrics.jsonl": ("resume", "finish"),
        "model.keras": ("evaluate", "apply", "export", "init"),
        "checkpoints/last.npz": ("resume", "finish"),
        "checkpoints/best.npz": ("resume", "finish"),
    }
    for file, uses in plan.items():
        for what, change in DAMAGE.items():
            for use in uses:
                if what in ("flipped-1", "missing-1-byte") and use in ("init", "apply"):
                    continue

                def make(d, file=file, change=change, use=use):
                    run_of("vae", d)
                    change(d / "run" / file)
                    return commands[use](d)

                loose = what.startswith(("flipped", "missing")) and not file.endswith(("npz", "keras"))
                expect = "clean" if loose else "told"
                add(
                    "damage",
                    f"{file}-{what}-{use}",
                    make,
                    expect=expect,
                    says=(file.split("/")[-1], "checkpoints"),
                    seconds=60,
                )
        add(
            "damage",
            f"{file}-is-a-folder",
            lambda d, file=file, use=uses[0]: (
                run_of("vae", d),
                (d / "run" / file).unlink(),
                (d / "run" / file).mkdir(),
                commands[use](d),
            )[3],
            expect="told",
            says=file.split("/")[-1],
            seconds=60,
        )
        add(
            "damage",
            f"{file}-is-a-fifo",
            lambda d, file=file, use=uses[0]: (
                run_of("vae", d),
                (d / "run" / file).unlink(),
                fifo(d / "run" / file),
                commands[use](d),
            )[3],
            expect="told",
            says=file.split("/")[-1],
            seconds=25,
        )
    for use in ("resume", "finish"):
        add(
            "damage",
            f"best-missing-{use}",
            lambda d, use=use: (run_of("vae", d), (d / "run/checkpoints/best.npz").unlink(), commands[use](d))[2],
            expect="clean",
            seconds=60,
        )
        add(
            "damage",
            f"history-missing-{use}",
            lambda d, use=use: (run_of("vae", d), (d / "run/metrics.jsonl").unlink(), commands[use](d))[2],
            expect="clean",
            seconds=60,
        )
    for use in ("evaluate", "apply", "export"):
        add(
            "damage",
            f"model-of-another-run-{use}",
            lambda d, use=use: (
                run_of("vae", d),
                write(d / "run/model.keras", (base("circle") / "model.keras").read_bytes()),
                commands[use](d),
            )[2],
            expect="told",
            says=("model.keras", "shape"),
            seconds=60,
        )
        add(
            "damage",
            f"model-of-a-pae-{use}",
            lambda d, use=use: (
                run_of("vae", d),
                write(d / "run/model.keras", (base("pae") / "model.keras").read_bytes()),
                commands[use](d),
            )[2],
            expect="clean",
            seconds=60,
        )
    lines = {
        "metrics.jsonl": (
            "5\n",
            "[]\n",
            "{}\n",
            '{"epoch": "one"}\n',
            '{"epoch": 1}\n',
            "null\n",
            '{"epoch": 1, "step"\n',
            '{"epoch": NaN}\n',
        ),
        "metrics.json": ("5", "[]", "null", '{"train/steps_asked": "x"}', '{"a": {"b": []}}', '"text"', "NaN"),
    }
    for file, contents in lines.items():
        for number, content in enumerate(contents):
            for use in ("resume", "evaluate") if file == "metrics.json" else ("resume",):
                add(
                    "damage",
                    f"{file}-other-json-{number}-{use}",
                    lambda d, file=file, content=content, use=use: (
                        run_of("vae", d),
                        write(d / "run" / file, content),
                        commands[use](d),
                    )[2],
                    expect="clean",
                    seconds=60,
                )


def wrong_configs():
    def case(name, change, **how):
        how.setdefault("says", "config.json")
        for use in ("evaluate", "resume"):

            def make(d, use=use):
                run = run_of("vae", d)
                config = json.loads((run / "config.json").read_text())
                made = change(config)
                made = config if made is None else made
                write(run / "config.json", made if isinstance(made, (str, bytes)) else json.dumps(made))
                return resume(d) if use == "resume" else evaluate(d, f"--workdir={run}", "--tasks=reconstruction")

            add("config", f"{name}-{use}", make, seconds=60, **how)

    def h(**values):
        return lambda config: config["hparams"].update(values)

    for name, text in (
        ("list", "[]"),
        ("null", "null"),
        ("number", "5"),
        ("text", '"a"'),
        ("empty-object", "{}"),
        ("hparams-null", '{"hparams": null}'),
        ("hparams-list", '{"hparams": []}'),
        ("utf-16", "{}".encode("utf-16")),
        ("nested-100000", "[" * 100_000),
        ("number-of-5000-digits", '{"hparams": {"seed": ' + "9" * 5000 + "}}"),
    ):
        case(name, lambda config, text=text: text)
    case("newer-version-key", h(new_flag_of_2030=5))
    case("newer-model", h(model="vae_2030"), says=("vae_2030", "config.json"))
    case("model-null", h(model=None), says=("model", "config.json"))
    case("model-list", h(model=["vae"]), says=("model", "config.json"))
    case("model-another", h(model="ae"), says=("config.json", "model"))
    case("without-model", lambda config: config["hparams"].pop("model") and None, says=("model", "config.json"))
    case("latents-as-text", h(latent_dim="two"), says=("latent_dim", "config.json"))
    case("latents-as-a-fraction", h(latent_dim=2.5), says=("latent_dim", "config.json"))
    case("latents-null", h(latent_dim=None), says=("latent_dim", "config.json"))
    case("latents-true", h(latent_dim=True), says=("latent_dim", "config.json"))
    case("latents-minus", h(latent_dim=-1), says=("latent_dim", "config.json"))
    case("units-as-text", h(hidden_units=["a"]), says=("hidden_units", "config.json"))
    case("units-as-a-number", h(hidden_units=8), says=("hidden_units", "config.json"))
    case("dataset-list", h(dataset=["digits"]), says=("dataset", "config.json"))
    case("dataset-null", h(dataset=None), says=("dataset", "config.json"))
    case("epochs-infinite", h(epochs=float("inf")), says=("epochs", "config.json"))
    case("batch-nan", h(batch_size=float("nan")), says=("batch_size", "config.json"))
    case("jit-as-text", h(jit_compile="no"), says=("jit_compile", "config.json"))
    case("preprocess-numbers", h(preprocess=[5]), says=("preprocess", "config.json"))


def wrong_checkpoints():
    def case(name, change, **how):
        how.setdefault("says", ("last.npz", "checkpoints"))
        how.setdefault("expect", "told")

        def make(d):
            run = run_of("vae", d)
            change(d, run / "checkpoints" / "last.npz")
            return resume(d)

        add("checkpoint", name, make, seconds=60, **how)

    def arrays(path):
        with np.load(path) as file:
            return {name: file[name] for name in file.files}

    def noted(**values):
        def change(d, path):
            found = arrays(path)
            note = json.loads(bytes(found["meta"]))
            note.update(values)
            found["meta"] = np.frombuffer(json.dumps(note).encode(), np.uint8)
            savez(path, **found)

        return change

    def meta(content):
        return lambda d, path: savez(path, **{**arrays(path), "meta": np.frombuffer(content, np.uint8)})

    case("best-instead-of-last", lambda d, path: write(path, (path.parent / "best.npz").read_bytes()))
    case("of-a-pae", lambda d, path: write(path, (base("pae") / "checkpoints/last.npz").read_bytes()))
    case("no-arrays", lambda d, path: savez(path, meta=arrays(path)["meta"]))
    case("no-meta", lambda d, path: savez(path, **{k: v for k, v in arrays(path).items() if k != "meta"}))
    case("one-array-missing", lambda d, path: savez(path, **{k: v for k, v in arrays(path).items() if k != "00000"}))
    case(
        "arrays-of-nan",
        lambda d, path: savez(path, **{k: v * np.nan if v.dtype.kind == "f" else v for k, v in arrays(path).items()}),
        says=("not finite", "last.npz"),
    )
    case(
        "arrays-of-text",
        lambda d, path: savez(
            path, **{k: v if k == "meta" else np.full(v.shape, "a") for k, v in arrays(path).items()}
        ),
    )
    case(
        "arrays-complex",
        lambda d, path: savez(path, **{k: v if k == "meta" else v * 1j for k, v in arrays(path).items()}),
    )
    case("a-pickle", lambda d, path: write(path, pickle.dumps(Canary(d / "CANARY"))))
    case(
        "claims-1-TiB",
        lambda d, path: zipped(
            path,
            {"00000.npy": npy_header("<f4", (1 << 38,)) + bytes(64), "meta.npy": npy(np.frombuffer(b"{}", np.uint8))},
        ),
    )
    case("meta-is-no-json", meta(b"{{{{"))
    case("meta-is-empty", meta(b"{}"), expect="clean")
    case("meta-lacks-a-key", meta(b'{"epoch": 1}'), expect="clean")
    case("epoch-1e30", noted(epoch=10**30))
