"""PredictionService and ModelService over gRPC, as far as Predict, GetModelMetadata and GetModelStatus."""

from concurrent import futures
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from model_serving import versions
from model_serving.c_api import Failed

#: the most bytes of a message, as TensorFlow Serving takes them
LARGEST = 2**31 - 1
OPTIONS = [("grpc.max_receive_message_length", LARGEST), ("grpc.max_send_message_length", LARGEST)]
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def version_of(spec: Any) -> int | None:
    """Returns the version that a ModelSpec asks for, None for the highest; raises Failed for a label."""
    if spec.version_label:
        raise Failed(versions.FAILED_PRECONDITION, f"Unrecognized servable version label: {spec.version_label}")
    return spec.version.value if spec.HasField("version") else None


def metadata(model: Any, spec: Any) -> get_model_metadata_pb2.GetModelMetadataResponse:
    """Returns the signatures of the version that a ModelSpec asks for; raises Failed."""
    version, found = model.get(spec.name, version_of(spec))
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = spec.name
    response.model_spec.version.value = version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, definition in found.definitions.items():
        signatures.signature_def[name].CopyFrom(definition)
    response.metadata["signature_def"].Pack(signatures)
    return response


def status(model: Any, spec: Any) -> get_model_status_pb2.GetModelStatusResponse:
    """Returns the states of the versions that a ModelSpec asks for; raises Failed."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in model.status(spec.name, version_of(spec)).items():
        one = response.model_version_status.add(
            version=version, state=get_model_status_pb2.ModelVersionStatus.State.Value(state.name))
        one.status.error_code, one.status.error_message = state.code, state.message
    return response


def told(method):
    """Returns a method of a servicer that hands Failed on as its status."""

    def call(self, request, context):
        try:
            return method(self, request)
        except Failed as error:
            context.abort(_CODES.get(error.code, grpc.StatusCode.UNKNOWN), str(error))

    return call


class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict and GetModelMetadata of one model; the other calls answer UNIMPLEMENTED."""

    def __init__(self, model: versions.Versions):
        self.model = model

    @told
    def Predict(self, request):
        spec = request.model_spec
        version, model = self.model.get(spec.name, version_of(spec))
        found = versions.predict(model, spec.signature_name, versions.arrays(request.inputs), request.output_filter)
        response = predict_pb2.PredictResponse()
        response.model_spec.name, response.model_spec.version.value = spec.name, version
        response.model_spec.signature_name = spec.signature_name or versions.DEFAULT
        for name, value in found.items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
        return response

    @told
    def GetModelMetadata(self, request):
        if list(request.metadata_field) != ["signature_def"]:
            raise Failed(versions.INVALID_ARGUMENT, "GetModelMetadataRequest must specify at least one metadata_field, "
                         f"and known is signature_def; received {list(request.metadata_field)}")
        return metadata(self.model, request.model_spec)


class Statuses(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus of one model; the other calls answer UNIMPLEMENTED."""

    def __init__(self, model: versions.Versions):
        self.model = model

    @told
    def GetModelStatus(self, request):
        return status(self.model, request.model_spec)


def serve(model: versions.Versions, host: str, port: int, threads: int) -> tuple[grpc.Server, int]:
    """Starts a server and returns it with its port, a free one for 0; raises OSError for a port that is taken."""
    server = grpc.server(futures.ThreadPoolExecutor(threads), options=[*OPTIONS, ("grpc.so_reuseport", 0)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(model), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(Statuses(model), server)
    try:
        port = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise OSError(f"{host}:{port} cannot be listened on: {error}") from error
    server.start()
    return server, port
