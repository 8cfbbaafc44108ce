"""Clients of a model server: the same questions over gRPC and over REST."""

import http.client
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from model_serving.grpc_api import OPTIONS

#: seconds that an answer may take; the first of a signature that was not warmed up may need many
PATIENCE = 300.0


class Refused(RuntimeError):
    """A server's refusal: `code` is the name of a gRPC status, or an HTTP status."""

    def __init__(self, code: Any, message: str):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class Tensor(NamedTuple):
    """What a signature says of an input or output: its type, and its sizes, None for any."""

    dtype: tf.DType
    shape: tuple[int | None, ...]


class Signature(NamedTuple):
    """Inputs and outputs of a signature by name."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class Grpc:
    """Asks over gRPC; threads may share one client.

    Args:
      host: host:port. model: name of the model.
    """

    name = "gRPC"
    #: codes of what is refused: an unknown model or version, bad input, an unknown signature
    missing, bad, unknown = "NOT_FOUND", ("INVALID_ARGUMENT",), ("FAILED_PRECONDITION", "INVALID_ARGUMENT")

    def __init__(self, host: str, model: str):
        self.model, self.channel = model, grpc.insecure_channel(host, options=OPTIONS)
        self.service = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.statuses = model_service_pb2_grpc.ModelServiceStub(self.channel)

    def request(self, signature: str, inputs: Mapping[str, np.ndarray], version: int | None = None) -> Any:
        """Returns the message of a prediction."""
        made = predict_pb2.PredictRequest()
        made.model_spec.name, made.model_spec.signature_name = self.model, signature
        if version is not None:
            made.model_spec.version.value = version
        for name, value in inputs.items():
            made.inputs[name].CopyFrom(tf.make_tensor_proto(value))
        return made

    def ask(self, request: Any) -> Any:
        """Returns the answer to a message of `request`; raises Refused."""
        return self._call(self.service.Predict, request)

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray], version: int | None = None) -> dict[str, Any]:
        """Returns {output: array}; raises Refused."""
        return {name: tf.make_ndarray(value) for name, value in self.ask(
            self.request(signature, inputs, version)).outputs.items()}  # fmt: skip

    def signatures(self) -> dict[str, Signature]:
        """Returns what the server says of the model's signatures; raises Refused."""
        asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = self.model
        found = get_model_metadata_pb2.SignatureDefMap()
        self._call(self.service.GetModelMetadata, asked).metadata["signature_def"].Unpack(found)
        return {name: Signature(_tensors(one.inputs), _tensors(one.outputs))
                for name, one in found.signature_def.items() if not name.startswith("__")}  # fmt: skip

    def states(self, version: int | None = None) -> dict[int, str]:
        """Returns {version: state}; raises Refused."""
        asked = get_model_status_pb2.GetModelStatusRequest()
        asked.model_spec.name = self.model
        if version is not None:
            asked.model_spec.version.value = version
        found = self._call(self.statuses.GetModelStatus, asked).model_version_status
        return {one.version: get_model_status_pb2.ModelVersionStatus.State.Name(one.state) for one in found}

    def close(self) -> None:
        """Ends the connection."""
        self.channel.close()

    @staticmethod
    def _call(method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=PATIENCE)
        except grpc.RpcError as error:
            raise Refused(error.code().name, error.details()) from error


def _tensors(infos: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: Tensor(tf.as_dtype(info.dtype), tuple(
        None if dim.size < 0 else int(dim.size) for dim in info.tensor_shape.dim)) for name, info in infos.items()}


class Rest:
    """Asks over REST, on one connection that stays open: a client for each thread.

    Args:
      host: host:port. model: name of the model.
    """

    name = "REST"
    missing, bad, unknown = 404, (400,), (400, 404)

    def __init__(self, host: str, model: str):
        self.model, self.connection = model, http.client.HTTPConnection(host, timeout=PATIENCE)

    def request(self, signature: str, inputs: Mapping[str, np.ndarray], version: int | None = None) -> Any:
        """Returns (path, body) of a prediction in column format."""
        values = {name: np.asarray(value).tolist() for name, value in inputs.items()}
        body = json.dumps({"signature_name": signature, "inputs": values})
        return self._path(version) + ":predict", body.encode()

    def ask(self, request: Any) -> Any:
        """Returns the answer to what `request` made, as an object; raises Refused."""
        return self.call("POST", *request)

    def predict(self, signature: str, inputs: Mapping[str, np.ndarray], version: int | None = None) -> dict[str, Any]:
        """Returns {output: array}; "" is the name of an output that is alone. Raises Refused."""
        return _named(self.ask(self.request(signature, inputs, version))["outputs"])

    def rows(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Returns as `predict` does, of a request in row format."""
        values = {name: value.tolist() for name, value in inputs.items()}
        rows = [dict(zip(values, row)) for row in zip(*values.values())]
        body = json.dumps({"signature_name": signature, "instances": rows}).encode()
        found = self.call("POST", self._path() + ":predict", body)["predictions"]
        if isinstance(found[0], dict):
            return {name: np.asarray([row[name] for row in found]) for name in found[0]}
        return {"": np.asarray(found)}

    def signatures(self) -> dict[str, set[str]]:
        """Returns the names of inputs and outputs of each signature, as the metadata have them; raises Refused."""
        found = self.call("GET", self._path() + "/metadata")["metadata"]["signature_def"]["signature_def"]
        return {name: {*one["inputs"], *one["outputs"]} for name, one in found.items() if not name.startswith("__")}

    def states(self, version: int | None = None) -> dict[int, str]:
        """Returns {version: state}; raises Refused."""
        found = self.call("GET", self._path(version))["model_version_status"]
        return {int(one["version"]): one["state"] for one in found}

    def call(self, method: str, path: str, body: bytes = b"") -> Any:
        """Returns the object that a call answers; raises Refused, also for an error that is no JSON with `error`."""
        self.connection.request(method, path, body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        text = response.read()
        if response.status != 200:
            raise Refused(response.status, json.loads(text)["error"])
        return json.loads(text)

    def close(self) -> None:
        """Ends the connection."""
        self.connection.close()

    def _path(self, version: int | None = None) -> str:
        return f"/v1/models/{self.model}" + ("" if version is None else f"/versions/{version}")


def _named(outputs: Any) -> dict[str, np.ndarray]:
    if isinstance(outputs, dict):
        return {name: np.asarray(value) for name, value in outputs.items()}
    return {"": np.asarray(outputs)}
