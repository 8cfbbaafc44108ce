"""Run alone, where pae_zoo cannot be imported: answers requests to exported models by two loaders.

python -I serving_process.py FOLDER CASE ...: for each FOLDER/<case>/requests.npz, with keys
"<number>/<signature>/<input>", loads FOLDER/<case>/model/<version> and writes c_api.npz, and for each CASE python.npz,
with keys "<number>/<signature>/<output>". Of wrong.npz, with the same keys, each input takes the place of that of the
signature's first request; the error is written under "refused/<its key>".
"""

import os
import sys
from pathlib import Path

FORBIDDEN = ("pae_zoo", "tensorflow_probability", "tf_keras")


class Refuse:
    """An import hook: a served model must stand without the code that made it."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not there")
        return None


sys.meta_path.insert(0, Refuse())
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from model_serving.c_api import CModel  # noqa: E402


class PythonLoader:
    """tf.saved_model.load."""

    def __init__(self, folder):
        self.model = tf.saved_model.load(folder)

    def signatures(self):
        return {name for name in self.model.signatures}

    def __call__(self, signature, inputs):
        outputs = self.model.signatures[signature](**{name: tf.constant(v) for name, v in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}


def answer(case, loader_class, name):
    (version,) = (case / "model").iterdir()
    loader = loader_class(str(version))
    requests, answers = {}, {}
    with np.load(case / "requests.npz") as file:
        for key in file.files:
            number, signature, given = key.split("/")
            requests.setdefault((number, signature), {})[given] = file[key]
    for (number, signature), inputs in requests.items():
        for output, value in loader(signature, inputs).items():
            answers[f"{number}/{signature}/{output}"] = value
    refusals = {}
    with np.load(case / "wrong.npz") as file:
        for key in file.files:
            _, signature, given = key.split("/")
            right = next(inputs for (_, name), inputs in requests.items() if name == signature)
            try:
                loader(signature, {**right, given: file[key]})
                refusals[f"refused/{key}"] = "was answered"
            except Exception as error:
                refusals[f"refused/{key}"] = str(error)
    np.savez(case / name, signatures=np.array(sorted(loader.signatures())), **answers, **refusals)


def main(folder, *python_cases):
    try:
        import pae_zoo  # noqa: F401
    except ImportError:
        pass
    else:
        raise SystemExit("pae_zoo can be imported: this process proves nothing")
    for case in sorted(Path(folder).iterdir()):
        if case.name in python_cases:
            answer(case, PythonLoader, "python.npz")
        answer(case, CModel, "c_api.npz")
    assert not any(name.split(".")[0] in FORBIDDEN for name in sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
