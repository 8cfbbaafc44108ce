"""Warm-up requests: the file that a model server replays before it takes traffic."""

from pathlib import Path

import numpy as np
import tensorflow as tf

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


def prediction_log_class() -> type:
    """Returns the message class of `tensorflow.serving.PredictionLog`, as far as Predict requests need it.

    The messages are described here by their field numbers, so that nothing beyond TensorFlow is needed
    (tensorflow_serving/apis: prediction_log.proto, predict.proto, model.proto).
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tensorflow.core.framework import tensor_pb2

    pool, package = descriptor_pool.Default(), "pae_zoo.serving"
    Field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="pae_zoo/serving.proto", package=package, syntax="proto3", dependency=[tensor_pb2.DESCRIPTOR.name]
    )

    def message(parent, name, fields):
        made = parent.add(name=name)
        for field, number, kind, label in fields:
            added = made.field.add(name=field, number=number, label=label)
            if kind:
                added.type, added.type_name = Field.TYPE_MESSAGE, kind
            else:
                added.type = Field.TYPE_STRING
        return made

    one, many, here = Field.LABEL_OPTIONAL, Field.LABEL_REPEATED, f".{package}."
    tensor = f".{tensor_pb2.DESCRIPTOR.package}.TensorProto"
    message(file.message_type, "ModelSpec", [("name", 1, "", one), ("signature_name", 3, "", one)])
    request = message(file.message_type, "PredictRequest", [
        ("model_spec", 1, f"{here}ModelSpec", one), ("inputs", 2, f"{here}PredictRequest.InputsEntry", many),
    ])
    entry = message(request.nested_type, "InputsEntry", [("key", 1, "", one), ("value", 2, tensor, one)])
    entry.options.map_entry = True
    message(file.message_type, "PredictLog", [("request", 1, f"{here}PredictRequest", one)])
    message(file.message_type, "PredictionLog", [("predict_log", 6, f"{here}PredictLog", one)])
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.PredictionLog"))


def write_warmup(path: Path, requests: list[tuple[str, dict[str, np.ndarray]]], model_name: str) -> None:
    """Writes Predict requests, (signature, {input: array}) each, as the TFRecord that a model server replays."""
    log_class = prediction_log_class()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, inputs in requests:
            log = log_class()
            request = log.predict_log.request
            request.model_spec.name, request.model_spec.signature_name = model_name, signature
            for name, value in inputs.items():
                request.inputs[name].MergeFromString(tf.make_tensor_proto(value).SerializeToString())
            writer.write(log.SerializeToString())


def read_warmup(path: Path) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Returns the requests of a warm-up file: (signature, {input: array}) each."""
    log_class, found = prediction_log_class(), []
    for record in tf.data.TFRecordDataset(str(path)):
        request = log_class.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        found.append((request.model_spec.signature_name, inputs))
    return found
