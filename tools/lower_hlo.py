"""Writes a model's training step as StableHLO, or runs a written one on any device through JAX.

  python tools/lower_hlo.py write DIR [--steps=3] -- LAUNCHER_FLAGS    (needs pae_zoo)
  python tools/lower_hlo.py run DIR [--device=cpu|cuda|tpu] [--steps=N] [--tolerance=T]    (numpy and jax)

`write` takes the flags of `python -m pae_zoo.main` (--model, --dataset, ...) and leaves in DIR the step
(step.mlir), its sample inputs (inputs.npz), what it gave under TensorFlow (expected.npz), the meaning of its
parameters (manifest.json) and a copy of this file, so that `python DIR/lower_hlo.py run DIR` checks and times
XLA on a machine without TensorFlow. The step is a function of weights, other state, Adam's moments, learning
rate, seed and batch, in this order, and returns the loss and the new weights, state and moments.
"""

import argparse
import json
import os
import sys
import time

import numpy as np

DEFAULT_TOLERANCE = 1e-4


def main(argv: list[str]) -> int:
    own, rest = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    parser = argparse.ArgumentParser(
        prog="lower_hlo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="write|run")
    write = commands.add_parser("write", help="lower the step of a model", allow_abbrev=False)
    write.add_argument("folder", help="new folder to write")
    write.add_argument("--steps", type=int, default=3, help="steps whose results are kept for comparison")
    run = commands.add_parser("run", help="run a written step through JAX", allow_abbrev=False)
    run.add_argument("folder", help="folder that `write` made")
    run.add_argument(
        "--device", default="", help="JAX platform: cpu, cuda, tpu, ... (default: JAX's own choice)"
    )
    run.add_argument("--steps", type=int, default=100, help="steps to time (0: only compare)")
    run.add_argument(
        "--tolerance",
        type=float,
        default=DEFAULT_TOLERANCE,
        help="largest error of the losses, relative, and of the weights, relative to their change (devices "
        "that multiply in TF32 or bfloat16 need about 1e-2)",
    )
    args = parser.parse_args(own)
    try:
        if args.steps < (1 if args.command == "write" else 0):
            raise StepError(f"--steps={args.steps} is too small; give at least 1")
        if args.command == "run":
            if rest:
                raise StepError(f"unexpected words after --: {' '.join(rest)}; `run` takes none")
            return run_step(args.folder, args.device, args.steps, args.tolerance)
        import lowering  # imports TensorFlow

        return lowering.write(args.folder, args.steps, rest)
    except StepError as error:
        print(f"lower_hlo: error: {' '.join(str(error).split())}.", file=sys.stderr)
        return 2


class StepError(ValueError):
    """Bad input: told in one line, status 2."""


def run_step(folder: str, device: str, steps: int, tolerance: float) -> int:
    """Compares the step in `folder` with what was expected, then times it; returns 1 if it differs."""
    manifest, inputs, expected = _read(folder)
    try:
        import jax
    except ImportError:
        raise StepError(
            "jax is not installed; pip install jax (for NVIDIA: 'jax[cuda12]') in any environment"
        )
    jax.config.update("jax_enable_x64", True)  # int64 counters stay int64
    try:
        chosen = jax.devices(device or None)[0]
    except RuntimeError as error:
        raise StepError(
            f"--device={device}: JAX has none ({str(error).splitlines()[0]}); it has {jax.devices()}"
        )
    if manifest["custom_calls"] and chosen.platform != "cpu":
        raise StepError(
            f"the step calls {manifest['custom_calls']}, which only a CPU has; it runs with --device=cpu"
        )
    with open(os.path.join(folder, "step.mlir"), encoding="utf-8") as file:
        text = file.read()
    start = time.perf_counter()
    step = _compile(text, chosen)
    print(
        f"{manifest['model']}: compiled for {chosen.device_kind} ({chosen.platform}), jax {jax.__version__}, "
        f"in {time.perf_counter() - start:.2f} s",
        flush=True,
    )
    names = manifest["carried"]
    state = [jax.device_put(inputs[name], chosen) for name in names]
    rate = jax.device_put(inputs["learning_rate"], chosen)
    batches = [tuple(jax.device_put(a, chosen) for a in pair) for pair in zip(inputs["seeds"], inputs["x"])]
    constants = [jax.device_put(inputs[name], chosen) for name in manifest["constants"]]

    def take(state, number):
        outputs = step([*state, rate, *batches[number % len(batches)], *constants])
        return outputs[0], list(outputs[1:])

    losses, carried = [], state
    for number in range(len(batches)):
        loss, carried = take(carried, number)
        losses.append(float(np.asarray(loss)))
    same = _compare(manifest, inputs, expected, losses, [np.asarray(a) for a in carried], tolerance)
    if steps:
        start = time.perf_counter()
        for number in range(steps):
            loss, carried = take(carried, number)
        np.asarray(loss)
        seconds = time.perf_counter() - start
        print(
            f"{steps} steps of {inputs['x'].shape[1]} data in {seconds:.3f} s: "
            f"{1e3 * seconds / steps:.3f} ms per step"
        )
    return 0 if same else 1


def _compile(text: str, device):
    """Returns the program as a function of a list of arrays on `device`."""
    # JAX's public interface compiles only what JAX traced; its client takes any StableHLO. These names are not
    # public and may move; they were tried with jax 0.10.2.
    from jax._src.lib import xla_client

    devices = xla_client.DeviceList((device,))
    program = device.client.compile_and_load(text, devices, xla_client.CompileOptions())

    def call(arguments):
        results = program.execute_sharded(arguments).disassemble_into_single_device_arrays()
        return [shards[0] for shards in results]

    return call


def _compare(manifest, inputs, expected, losses, carried, tolerance) -> bool:
    """Prints how far losses and weights are from the expected ones; returns whether both are near enough."""
    wanted = expected["losses"]
    loss_error = float(np.max(np.abs(losses - wanted) / np.maximum(np.abs(wanted), 1.0)))
    squares, changes, largest = 0.0, 0.0, 0.0
    for name, array in zip(manifest["carried"], carried):
        if not name.startswith("weight/"):
            continue
        error = array.astype(np.float64) - expected[name]
        squares += float(np.sum(error**2))
        changes += float(np.sum((expected[name].astype(np.float64) - inputs[name]) ** 2))
        largest = max(largest, float(np.max(np.abs(error), initial=0.0)))
    weight_error = (squares / max(changes, 1e-300)) ** 0.5
    same = bool(loss_error <= tolerance and weight_error <= tolerance)
    print(
        f"after {len(losses)} steps: loss {losses[-1]:.6g} (expected {wanted[-1]:.6g}); largest relative error "
        f"of the losses {loss_error:.2e}; error of the weights relative to their change {weight_error:.2e} "
        f"(largest absolute {largest:.2e}); tolerance {tolerance:g}: {'equal' if same else 'DIFFERENT'}",
        flush=True,
    )
    return same


def _read(folder: str):
    try:
        with open(os.path.join(folder, "manifest.json"), encoding="utf-8") as file:
            manifest = json.load(file)
        arrays = []
        for name in ("inputs.npz", "expected.npz"):
            with np.load(os.path.join(folder, name), allow_pickle=False) as file:
                arrays.append({key: file[key] for key in file.files})
    except (OSError, ValueError) as error:
        raise StepError(f"{folder} cannot be read ({error}); give the folder that `write` made")
    return manifest, *arrays


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
