"""Puts curvature and predictions beside those of laplace-torch, on the same weights and data, in double precision.

    python tools/compare_laplace.py                                  # laplace-torch in the same environment
    python tools/compare_laplace.py --torch_python=/elsewhere/bin/python

A classifier and a regressor of three dense layers are trained by Keras; both sides then make a posterior of a fixed
prior precision by the exact GGN and predict. Kronecker factors are compared without biases, which laplace-torch keeps
apart from the kernels. Seconds are of fit and prediction, the first time, which compiles here, and again, on one thread
each. Without laplace-torch one line says so, and nothing is compared.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

PRIOR, SIGMA = 2.0, 0.3
WIDTHS, NUM_INPUTS, NUM_DATA, NUM_NEW = (50, 50), 20, 1000, 200
CASES = [(kind, structure) for kind in ("classifier", "regressor") for structure in ("diag", "kron", "last_layer")]
LINKS = {"classifier": ("probit", "bridge"), "regressor": ("variance",)}


def data(kind: str) -> dict[str, np.ndarray]:
    """Returns x, y and x to predict for, drawn with one seed."""
    rng = np.random.default_rng(0)
    x, new = rng.normal(size=(NUM_DATA, NUM_INPUTS)), 2 * rng.normal(size=(NUM_NEW, NUM_INPUTS))
    signal = np.tanh(x @ rng.normal(size=(NUM_INPUTS, 5)))
    y = signal.argmax(1) if kind == "classifier" else signal[:, :1] + SIGMA * rng.normal(size=(NUM_DATA, 1))
    return {"x": x, "y": y, "new": new}


def ours(kind: str, structure: str, folder: Path) -> dict[str, np.ndarray]:
    """Returns what this package finds; writes data and weights for the other side."""
    import keras

    from pae_zoo import curvature

    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    keras.utils.set_random_seed(0)
    given, bias = data(kind), structure != "kron"
    outputs = 5 if kind == "classifier" else 1
    model = keras.Sequential([
        keras.Input((NUM_INPUTS,)), *(keras.layers.Dense(n, activation="tanh", use_bias=bias) for n in WIDTHS),
        keras.layers.Dense(outputs, use_bias=bias)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if kind == "classifier" else "mse"
    model.compile(keras.optimizers.Adam(0.01), loss, jit_compile=False)
    model.fit(given["x"], given["y"], epochs=5, verbose=0)
    np.savez(folder / "given.npz", **given, **{f"w{i}": w for i, w in enumerate(model.get_weights())})
    likelihood = "categorical" if kind == "classifier" else "gaussian"
    found: dict[str, np.ndarray] = {}
    predictives: dict[str, curvature.Predictive] = {}
    for again in (False, True):
        start = time.monotonic()
        matrix = curvature.ggn(model, given["x"], structure, likelihood=likelihood)
        if not again:
            posterior = curvature.build(structure, model, matrix)
            posterior.assign_scales(PRIOR, SIGMA**2 if kind == "regressor" else 1.0)
            predictives = {link: curvature.Predictive(posterior, model, link=link if kind == "classifier" else "probit")
                           for link in LINKS[kind]}
        posterior.assign_curvature(matrix)
        for link in LINKS[kind]:
            result = predictives[link](given["new"])
            found[link] = result["probabilities"] if kind == "classifier" else result["epistemic_std"] ** 2
        found["seconds" if not again else "again"] = np.array(time.monotonic() - start)
    return {name: np.asarray(value) for name, value in found.items()}


def theirs(kind: str, structure: str, folder: Path) -> None:
    """Writes what laplace-torch finds for the weights in `folder`."""
    import torch
    from laplace import Laplace

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    given = dict(np.load(folder / "given.npz"))
    arrays = [torch.from_numpy(given[f"w{i}"]) for i in range(sum(name[0] == "w" for name in given))]
    step = 2 if structure != "kron" else 1
    layers: list[torch.nn.Module] = []
    for start in range(0, len(arrays), step):
        kernel = arrays[start]
        layer = torch.nn.Linear(*kernel.shape, bias=step == 2)
        layer.weight.data = kernel.T.contiguous()
        if step == 2:
            layer.bias.data = arrays[start + 1]
        layers += [layer, torch.nn.Tanh()]
    model = torch.nn.Sequential(*layers[:-1])
    x, y, new = (torch.from_numpy(given[name]) for name in ("x", "y", "new"))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=len(x))
    last = structure == "last_layer"
    found: dict[str, np.ndarray] = {}
    for again in (False, True):
        start = time.monotonic()
        posterior = Laplace(
            model, "classification" if kind == "classifier" else "regression",
            subset_of_weights="last_layer" if last else "all", hessian_structure="full" if last else structure,
            prior_precision=PRIOR, **({"sigma_noise": SIGMA} if kind == "regressor" else {}))
        posterior.fit(loader)
        for link in LINKS[kind]:
            if kind == "classifier":
                found[link] = posterior(new, pred_type="glm", link_approx=link)
            else:
                found[link] = posterior(new, pred_type="glm")[1][..., 0]
        found["seconds" if not again else "again"] = np.array(time.monotonic() - start)
    np.savez(folder / "found.npz", **{name: np.asarray(value) for name, value in found.items()})


def without_laplace(python: str, environment: dict[str, str]) -> str:
    """Returns why a Python cannot import laplace-torch; empty: it can."""
    try:
        done = subprocess.run([python, "-c", "import laplace"], capture_output=True, text=True, env=environment)
    except OSError as error:
        return str(error)
    return (done.stderr.strip() or f"status {done.returncode}").splitlines()[-1] if done.returncode else ""


def main(arguments: Optional[Sequence[str]] = None) -> None:
    """Prints a row for each case, and ends with status 1 where a value differs by more than 1e-4."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch_python", default=sys.executable, help="a Python that has laplace-torch")
    parser.add_argument("--one", nargs=3, metavar=("KIND", "STRUCTURE", "FOLDER"), help=argparse.SUPPRESS)
    flags = parser.parse_args(arguments)
    if flags.one:
        theirs(flags.one[0], flags.one[1], Path(flags.one[2]))
        return
    environment = {**os.environ, "PYTHONPATH": ""}
    reason = without_laplace(flags.torch_python, environment)
    if reason:
        print(f"Not compared: {flags.torch_python} has no laplace-torch ({reason}).")
        return
    # Read by TensorFlow when it starts, here and nowhere before.
    os.environ.update(TF_NUM_INTRAOP_THREADS="1", TF_NUM_INTEROP_THREADS="1")
    print("| network | structure | compared | largest value | largest difference | s here, first / again | "
          "s there, first / again |\n|---|---|---|---|---|---|---|")
    worst = 0.0
    for kind, structure in CASES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            here = ours(kind, structure, folder)
            command = [flags.torch_python, __file__, "--one", kind, structure, name]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                raise SystemExit(done.stderr)
            there = dict(np.load(folder / "found.npz"))
        seconds = " | ".join(f"{one['seconds']:.2f} / {one['again']:.2f}" for one in (here, there))
        for link in LINKS[kind]:
            difference = float(np.abs(here[link] - there[link]).max())
            worst = max(worst, difference)
            print(f"| {kind} | {structure} | {link} | {here[link].max():.4g} | {difference:.1e} | {seconds} |")
    if worst > 1e-4:
        raise SystemExit(f"Values differ by up to {worst:.1e}.")


if __name__ == "__main__":
    main()
