"""Run alone, where pae_zoo cannot be imported: answers requests to exported models by two loaders.

python -I serving_process.py FOLDER CASE ...: for each FOLDER/<case>/requests.npz, with keys
"<number>/<signature>/<input>", loads FOLDER/<case>/model/<version> and writes c_api.npz, and for each CASE python.npz,
with keys "<number>/<signature>/<output>". Of wrong.npz, with the same keys, each input takes the place of that of the
signature's first request; the error is written under "refused/<its key>".
"""

import ctypes
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

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from tensorflow.core.protobuf import meta_graph_pb2  # noqa: E402


class PythonLoader:
    """tf.saved_model.load."""

    def __init__(self, folder):
        self.model = tf.saved_model.load(folder)

    def signatures(self):
        return {name for name in self.model.signatures}

    def __call__(self, signature, inputs):
        outputs = self.model.signatures[signature](**{name: tf.constant(v) for name, v in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p)]


def library():
    """The C API of the installed TensorFlow, with the types of what the functions return."""
    lib = ctypes.CDLL(os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc.so.2"))
    for name in (
        "TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_LoadSessionFromSavedModel", "TF_AllocateTensor",
        "TF_TensorData", "TF_GraphOperationByName",
    ):  # fmt: skip
        getattr(lib, name).restype = ctypes.c_void_p
    lib.TF_NewBuffer.restype = ctypes.POINTER(Buffer)
    lib.TF_Message.restype = ctypes.c_char_p
    lib.TF_Dim.restype = ctypes.c_int64
    lib.TF_TensorByteSize.restype = ctypes.c_size_t
    return lib


class CLoader:
    """TF_LoadSessionFromSavedModel and TF_SessionRun: tensorflow::LoadSavedModel, which TF Serving calls."""

    def __init__(self, folder):
        self.lib = library()
        self.status = ctypes.c_void_p(self.lib.TF_NewStatus())
        self.graph = ctypes.c_void_p(self.lib.TF_NewGraph())
        buffer = self.lib.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        options = ctypes.c_void_p(self.lib.TF_NewSessionOptions())
        self.session = ctypes.c_void_p(
            self.lib.TF_LoadSessionFromSavedModel(
                options, None, folder.encode(), tags, 1, self.graph, buffer, self.status
            )
        )
        self.check()
        text = ctypes.string_at(buffer.contents.data, buffer.contents.length)
        self.definitions = meta_graph_pb2.MetaGraphDef.FromString(text).signature_def

    def check(self):
        if self.lib.TF_GetCode(self.status):
            raise RuntimeError(self.lib.TF_Message(self.status).decode())

    def signatures(self):
        return set(self.definitions) - {"__saved_model_init_op"}

    def output(self, name):
        operation, _, index = name.partition(":")
        found = self.lib.TF_GraphOperationByName(self.graph, operation.encode())
        assert found, f"{operation} is not in the graph"
        return Output(found, int(index))

    def tensor(self, value):
        value = np.asarray(value, order="C")
        dims = (ctypes.c_int64 * max(value.ndim, 1))(*value.shape)
        made = ctypes.c_void_p(
            self.lib.TF_AllocateTensor(
                tf.as_dtype(value.dtype).as_datatype_enum, dims, value.ndim, ctypes.c_size_t(value.nbytes)
            )
        )
        ctypes.memmove(self.lib.TF_TensorData(made), value.ctypes.data, value.nbytes)
        return made

    def array(self, pointer):
        tensor = ctypes.c_void_p(pointer)
        shape = [self.lib.TF_Dim(tensor, i) for i in range(self.lib.TF_NumDims(tensor))]
        dtype = tf.as_dtype(self.lib.TF_TensorType(tensor)).as_numpy_dtype
        text = ctypes.string_at(self.lib.TF_TensorData(tensor), self.lib.TF_TensorByteSize(tensor))
        self.lib.TF_DeleteTensor(tensor)
        return np.frombuffer(text, dtype).reshape(shape)

    def __call__(self, signature, inputs):
        definition = self.definitions[signature]
        assert definition.method_name == "tensorflow/serving/predict"
        assert set(definition.inputs) == set(inputs), (signature, set(definition.inputs))
        names = sorted(definition.outputs)
        feeds = [self.output(definition.inputs[name].name) for name in inputs]
        tensors = [self.tensor(value) for value in inputs.values()]
        fetches = [self.output(definition.outputs[name].name) for name in names]
        results = (ctypes.c_void_p * len(names))()
        self.lib.TF_SessionRun(
            self.session, None,
            (Output * len(feeds))(*feeds), (ctypes.c_void_p * len(feeds))(*[t.value for t in tensors]), len(feeds),
            (Output * len(names))(*fetches), results, len(names),
            None, 0, None, self.status,
        )  # fmt: skip
        self.check()
        for tensor in tensors:
            self.lib.TF_DeleteTensor(tensor)
        return {name: self.array(results[i]) for i, name in enumerate(names)}


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
        answer(case, CLoader, "c_api.npz")
    assert not any(name.split(".")[0] in FORBIDDEN for name in sys.modules)


if __name__ == "__main__":
    main(*sys.argv[1:])
