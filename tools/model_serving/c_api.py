"""A SavedModel by TensorFlow's C API: `tensorflow::LoadSavedModel` and a session, which is what TF Serving runs."""

import ctypes
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

INIT = "__saved_model_init_op"
PREDICT = "tensorflow/serving/predict"
# Bytes of a TF_TString.
STRING_BYTES = 24


class Output(ctypes.Structure):
    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


class Buffer(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p)]


class Failed(RuntimeError):
    """An error of the runtime: `code` is a number of `tensorflow.error.Code`, 3 for bad input."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


def library() -> Any:
    """Returns the C API of the installed TensorFlow, with the types of what the functions return."""
    lib = ctypes.CDLL(os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc.so.2"))
    for name in (
        "TF_NewStatus", "TF_NewGraph", "TF_NewSessionOptions", "TF_LoadSessionFromSavedModel", "TF_AllocateTensor",
        "TF_TensorData", "TF_GraphOperationByName", "TF_StringGetDataPointer",
    ):  # fmt: skip
        getattr(lib, name).restype = ctypes.c_void_p
    lib.TF_NewBuffer.restype = ctypes.POINTER(Buffer)
    lib.TF_Message.restype = ctypes.c_char_p
    lib.TF_Dim.restype = ctypes.c_int64
    lib.TF_TensorByteSize.restype = lib.TF_StringGetSize.restype = ctypes.c_size_t
    return lib


class CModel:
    """A loaded SavedModel; threads may call it at once. It is closed when nobody holds it any more.

    Args:
      folder: of the SavedModel.

    Raises Failed where the runtime cannot load it.
    """

    def __init__(self, folder: str):
        self.session = None
        self.lib = library()
        self.graph = ctypes.c_void_p(self.lib.TF_NewGraph())
        buffer = self.lib.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        options, status = ctypes.c_void_p(self.lib.TF_NewSessionOptions()), self._status()
        session = self.lib.TF_LoadSessionFromSavedModel(
            options, None, folder.encode(), tags, 1, self.graph, buffer, status)  # fmt: skip
        self._check(status)
        self.session = ctypes.c_void_p(session)
        text = ctypes.string_at(buffer.contents.data, buffer.contents.length)
        self.lib.TF_DeleteBuffer(buffer)
        self.lib.TF_DeleteSessionOptions(options)
        found = meta_graph_pb2.MetaGraphDef.FromString(text).signature_def
        self.definitions = {name: definition for name, definition in found.items() if name != INIT}
        names = {info.name for one in self.definitions.values() for part in (one.inputs, one.outputs)
                 for info in part.values()}  # fmt: skip
        self._places = {name: self._place(name) for name in names}

    def __del__(self):
        if self.session is not None:
            status = self._status()
            self.lib.TF_CloseSession(self.session, status)
            self.lib.TF_DeleteSession(self.session, status)
            self.lib.TF_DeleteStatus(status)
            self.lib.TF_DeleteGraph(self.graph)

    def signatures(self) -> set[str]:
        """Returns the names of the signatures."""
        return set(self.definitions)

    def __call__(self, signature: str, inputs: Mapping[str, Any], outputs: Sequence[str] = ()) -> dict[str, np.ndarray]:
        """Returns {output: array} of a signature for {input: array}, all outputs or those named; raises Failed."""
        definition = self.definitions[signature]
        assert definition.method_name == PREDICT
        assert set(definition.inputs) == set(inputs), (signature, set(definition.inputs))
        names = list(outputs) or sorted(definition.outputs)
        feeds = [self._places[definition.inputs[name].name] for name in inputs]
        fetches = [self._places[definition.outputs[name].name] for name in names]
        results = (ctypes.c_void_p * len(names))()
        status, tensors = self._status(), [self._tensor(value) for value in inputs.values()]
        self.lib.TF_SessionRun(
            self.session, None,
            (Output * len(feeds))(*feeds), (ctypes.c_void_p * len(feeds))(*[t.value for t in tensors]), len(feeds),
            (Output * len(names))(*fetches), results, len(names),
            None, 0, None, status,
        )  # fmt: skip
        for tensor in tensors:
            self._delete(tensor)
        self._check(status)
        return {name: self._array(results[i]) for i, name in enumerate(names)}

    def _status(self) -> ctypes.c_void_p:
        return ctypes.c_void_p(self.lib.TF_NewStatus())

    def _check(self, status: ctypes.c_void_p) -> None:
        code, message = self.lib.TF_GetCode(status), self.lib.TF_Message(status).decode(errors="replace")
        self.lib.TF_DeleteStatus(status)
        if code:
            raise Failed(code, message)

    def _place(self, name: str) -> Output:
        operation, _, index = name.partition(":")
        found = self.lib.TF_GraphOperationByName(self.graph, operation.encode())
        assert found, f"{operation} is not in the graph"
        return Output(found, int(index))

    def _tensor(self, value: Any) -> ctypes.c_void_p:
        value = np.asarray(value, order="C")
        kind = tf.as_dtype(value.dtype)
        size = STRING_BYTES * value.size if kind == tf.string else value.nbytes
        dims = (ctypes.c_int64 * max(value.ndim, 1))(*value.shape)
        made = ctypes.c_void_p(
            self.lib.TF_AllocateTensor(kind.as_datatype_enum, dims, value.ndim, ctypes.c_size_t(size)))
        data = self.lib.TF_TensorData(made)
        if kind == tf.string:
            for place, text in zip(self._strings(data, value.size), value.ravel()):
                text = text.encode() if isinstance(text, str) else text
                self.lib.TF_StringInit(place)
                self.lib.TF_StringCopy(place, text, ctypes.c_size_t(len(text)))
        else:
            ctypes.memmove(data, value.ctypes.data, value.nbytes)
        return made

    def _delete(self, tensor: ctypes.c_void_p) -> None:
        if self.lib.TF_TensorType(tensor) == tf.string.as_datatype_enum:
            count = self.lib.TF_TensorByteSize(tensor) // STRING_BYTES
            for place in self._strings(self.lib.TF_TensorData(tensor), count):
                self.lib.TF_StringDealloc(place)
        self.lib.TF_DeleteTensor(tensor)

    def _array(self, pointer: int) -> np.ndarray:
        tensor = ctypes.c_void_p(pointer)
        shape = [self.lib.TF_Dim(tensor, i) for i in range(self.lib.TF_NumDims(tensor))]
        kind, data = tf.as_dtype(self.lib.TF_TensorType(tensor)), self.lib.TF_TensorData(tensor)
        if kind == tf.string:
            places = self._strings(data, int(np.prod(shape, dtype=np.int64)))
            texts = [ctypes.string_at(self.lib.TF_StringGetDataPointer(place), self.lib.TF_StringGetSize(place))
                     for place in places]  # fmt: skip
            found = np.array(texts, object).reshape(shape)
        else:
            found = np.frombuffer(ctypes.string_at(data, self.lib.TF_TensorByteSize(tensor)), kind.as_numpy_dtype)
            found = found.reshape(shape)
        self.lib.TF_DeleteTensor(tensor)
        return found

    @staticmethod
    def _strings(data: Any, count: int) -> list[ctypes.c_void_p]:
        return [ctypes.c_void_p(data + STRING_BYTES * number) for number in range(count)]
