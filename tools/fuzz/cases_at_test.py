"""Cases: finished runs with other settings at test, and with the weights of kept epochs."""

import shutil

import numpy as np
from kit import add, apply, evaluate, export, run_of, savez, truncated


def table():
    settings()
    epochs()


LAUNCHERS = {
    "evaluate": lambda d, *argv: evaluate(d, f"--workdir={d}/run", "--tasks=reconstruction", *argv),
    "apply": lambda d, *argv: apply(d, f"--workdir={d}/run", "--input=npz:none.npz", f"--out={d}/o.npz", *argv),
    "export": lambda d, *argv: export(d, f"--workdir={d}/run", f"--export_dir={d}/served", *argv),
}


def settings():
    flags = {
        "none": ("--num_updates=3", "none of its settings"),
        "steps-of-another": ("--num_svi_steps=2", "no such setting"),
        "kappa-of-another": ("--hessian_scale=2", "no such setting"),
        "search-unknown": ("--search=newtn", "newton"),
        "schedule-unknown": ("--update_schedule=harmonica", "harmonic"),
        "rate-above-1": ("--update_lr=2", "update_lr"),
        "rate-nan": ("--update_lr=nan", "update_lr"),
        "updates-negative": ("--num_updates=-1", "num_updates"),
        "updates-no-number": ("--num_updates=many", "num_updates"),
        "updates-huge": ("--num_updates=99999999999999999999", "num_updates"),
        "precision-0": ("--prior_precision=0", "prior_precision"),
        "predictive-unknown": ("--predictive=linear", "linearised"),
    }
    for launcher, make in LAUNCHERS.items():
        for name, (flag, says) in flags.items():
            add("at_test", f"{launcher}-{name}",
                lambda d, make=make, flag=flag: (run_of("vae", d), make(d, flag))[1], says=says, lines=3)  # fmt: skip


def epochs():
    words = {"empty": "", "word": "first", "zero": "0", "negative": "-3", "float": "1.5", "path": "../last",
             "nul": "1\0", "huge": "9" * 40, "not-kept": "7", "arabic": "٣"}  # fmt: skip
    for launcher, make in LAUNCHERS.items():
        for name, word in words.items():
            add("at_test", f"{launcher}-epoch-{name}",
                lambda d, make=make, word=word: (run_of("vae", d), make(d, f"--checkpoint={word}"))[1],
                says=("checkpoint",), lines=3)  # fmt: skip

    def kept(name, change, says):
        def make(d):
            folder = run_of("vae", d) / "checkpoints"
            shutil.copy(folder / "best.npz", folder / "epoch_00001.npz")
            change(folder / "epoch_00001.npz")
            return LAUNCHERS["evaluate"](d, "--checkpoint=1")

        add("at_test", f"kept-{name}", make, says=says, lines=3, seconds=60)

    def nan(path):
        arrays = dict(np.load(path))
        savez(path, **{key: np.full_like(one, np.nan) if one.dtype.kind == "f" else one for key, one in arrays.items()})

    def fewer(path):
        arrays = dict(np.load(path))
        savez(path, **{key: one for key, one in arrays.items() if key != "00003"})

    kept("truncated", lambda path: truncated(path), "epoch_00001.npz")
    kept("text", lambda path: path.write_text("weights"), "epoch_00001.npz")
    kept("folder", lambda path: (path.unlink(), path.mkdir()), "epoch_00001.npz")
    kept("nan", nan, "not finite")
    kept("fewer", fewer, "do not fit")
    for name in ("epoch_.npz", "epoch_x.npz", "epoch_-1.npz", "epoch_²."):
        def make(d, name=name):
            (run_of("vae", d) / "checkpoints" / name).write_bytes(b"")
            return LAUNCHERS["evaluate"](d, "--checkpoint=2")

        add("at_test", f"strange-{name}", make, says="checkpoint", lines=3)
