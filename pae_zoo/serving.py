"""SavedModels for TensorFlow Serving: named signatures, stateless, for any batch size, with warm-up requests.

Every random function takes its seed as an input, so that the same request gives the same answer.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, Sequence, Union

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from pae_zoo.core import files, seeds
from pae_zoo.core.errors import UserError
from pae_zoo.models.capabilities import lacking

LAST_VERSION = 2**63 - 1
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"


@dataclasses.dataclass(frozen=True)
class Signature:
    """One served function.

    Args:
      name: its key in the SavedModel. Of several entries with the same name the first that can be traced wins.
      inputs: names among x, z, n and seed, or named `tf.TensorSpec`s of other inputs, in the order of `function`.
      function: takes the inputs and returns {output name: tensor}; raises NotImplementedError, with a sentence,
        where the model's settings exclude it.
      needs: what the model must offer for it; "" for nothing.
    """

    name: str
    inputs: tuple[Union[str, tf.TensorSpec], ...]
    function: Callable[..., Mapping[str, tf.Tensor]]
    needs: str = ""


def signatures(model: Any, importance_samples: int = 100) -> list[Signature]:
    """Returns the table of signatures: those of every model, then the model's own.

    A model adds its own by a method `serving_signatures()` that returns {name: (inputs, function)}, with the
    parts of `Signature`; one of the same name as below takes its place.
    """

    def encode(x):
        posterior = model.encode(x)
        if isinstance(posterior, tfp.distributions.VectorDeterministic):
            return {"mean": posterior.mean()}
        return {"mean": posterior.mean(), "stddev": posterior.stddev()}

    def encode_draw(x, seed):
        proposal_seed, draw_seed = seeds.split(seed, 2)
        return {"z": model.encode(x, proposal_seed).sample(seed=draw_seed)}

    def impute(x, seed):
        mean, std = model.impute_mean(x, seed, importance_samples)
        return {"mean": mean, "std": std}

    def sample_label(label, n, seed):
        return {"x": model.given(tf.clip_by_value(label, 0, model.num_labels - 1)).sample(n, seed)}

    def labels(x, seed):
        log_prob = model.log_label_prob(x, importance_samples, seed)
        return {"log_prob": log_prob, "label": tf.argmax(log_prob, axis=-1, output_type=tf.int32)}

    own = getattr(model, "serving_signatures", dict)()
    label = tf.TensorSpec((), tf.int32, name="label")
    conditional = [Signature("sample_label", (label, "n", "seed"), sample_label, "sample"),
                   Signature("labels", ("x", "seed"), labels)]  # fmt: skip
    return [
        *(Signature(name, tuple(inputs), function) for name, (inputs, function) in own.items()),
        Signature("serving_default", ("x",), lambda x: {"x": model(x)}),
        Signature("encode", ("x",), encode, "moments"),
        Signature("encode", ("x", "seed"), encode_draw),  # a posterior without closed-form moments
        Signature("decode", ("z",), lambda z: {"x": model.decode_mean(z)}),
        Signature("sample", ("n", "seed"), lambda n, seed: {"x": model.sample(n, seed)}, "sample"),
        Signature("elbo", ("x", "seed"), lambda x, seed: {"elbo": model.elbo(x, seed)}, "elbo"),
        Signature("ood_scores", ("x", "seed"), lambda x, seed: dict(model.ood_scores(x, seed)), "scores"),
        *(conditional if getattr(model, "num_labels", 0) else []),
        *([Signature("impute", ("x", "seed"), impute, "impute")] if getattr(model, "takes_gaps", False) else []),
        Signature(
            "log_likelihood", ("x", "seed"),
            lambda x, seed: {"log_likelihood": model.log_likelihood(x, importance_samples, seed)}, "likelihood",
        ),
    ]  # fmt: skip


def input_specs(model: Any) -> dict[str, tf.TensorSpec]:
    """Returns the inputs that signatures share: data x, latents z, a number n and a pair of integers seed."""
    return {
        "x": tf.TensorSpec((None, *model.event_shape), tf.float32, name="x"),
        "z": tf.TensorSpec((None, model.latent_dim), tf.float32, name="z"),
        "n": tf.TensorSpec((), tf.int32, name="n"),
        "seed": tf.TensorSpec((2,), tf.int32, name="seed"),
    }


def trace(model: Any, importance_samples: int = 100,
          more: Sequence[Signature] = ()) -> tuple[dict[str, Callable], dict[str, str]]:
    """Traces every signature, and `more`; returns ({name: traced tf.function}, {name left out: the model's reason}).

    The functions are not compiled by XLA: a model server need not be able to run XLA programs. Raises
    RuntimeError for a function with state, which would answer the same request differently.
    """
    shared = input_specs(model)
    functions: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for signature in [*signatures(model, importance_samples), *more]:
        if signature.name in functions:
            continue
        if signature.needs and signature.needs not in model.offers:
            left_out.setdefault(signature.name, str(lacking(model, signature.needs)))
            continue
        inputs = [shared[spec] if isinstance(spec, str) else spec for spec in signature.inputs]
        function = tf.function(_checked(signature.function, inputs), input_signature=inputs, autograph=False)
        try:
            concrete = function.get_concrete_function()
        except NotImplementedError as error:
            left_out.setdefault(signature.name, " ".join(str(error).split()))
            continue
        state = stateful_operations(concrete)
        if state:
            raise RuntimeError(
                f"The signature {signature.name} of {type(model).__name__} has state: {', '.join(state)}. "
                "Served functions must draw from the seed that they are given and change no variable."
            )
        functions[signature.name] = function
    return functions, {name: reason for name, reason in left_out.items() if name not in functions}


def _checked(function: Callable, specs: list[tf.TensorSpec]) -> Callable:
    """Returns the function with shapes held against `specs` when it runs, where an error names the input.

    A model server hands on whatever shape it is given. What TensorFlow takes to be known it does not check, so each
    input passes first through an operation of unknown shape, which has the input's name.
    """

    def checked(*values):
        given = [tf.raw_ops.PlaceholderWithDefault(input=value, shape=None, name=f"input_{spec.name}")
                 for value, spec in zip(values, specs)]
        held = [tf.ensure_shape(value, spec.shape) for value, spec in zip(given, specs)]
        return {name: _after(value, held) for name, value in function(*held).items()}

    return checked


def _after(value: tf.Tensor, held: list[tf.Tensor]) -> tf.Tensor:
    """Returns an answer that needs the whole numbers among the inputs, the seed of a model without noise too.

    What no answer needs a server leaves out, its check as well.
    """
    for numbers in held:
        if numbers.dtype.is_integer:
            # 0, in a form that is not seen through.
            value += tf.cast(tf.reduce_sum(tf.bitwise.bitwise_and(numbers, tf.zeros_like(numbers))), value.dtype)
    return value


def stateful_operations(concrete: Any) -> list[str]:
    """Returns the types of operations in a traced function that write variables or draw hidden numbers."""
    graph = concrete.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    prefixes = ("Assign", "Rng", "Random", "StatefulRandom", "StatefulStandard", "StatefulUniform",
                "StatefulTruncated", "PyFunc", "EagerPyFunc")  # fmt: skip
    return sorted({node.op for node in nodes if node.op.startswith(prefixes)})


@dataclasses.dataclass(frozen=True)
class Exported:
    """What `export` wrote: its folder, the signatures as {name: (inputs, outputs)}, and those left out."""

    path: Path
    signatures: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]
    left_out: dict[str, str]


def next_version(export_dir: Path) -> int:
    """Returns one more than the highest version in `export_dir`, 1 if there is none."""
    if not export_dir.is_dir():
        return 1
    names = [child.name for child in export_dir.iterdir()]
    return 1 + max((int(name) for name in names if name.isascii() and name.isdecimal()), default=0)


def check_target(export_dir: Path, version: int = 0) -> Path:
    """Returns the folder that a version goes to (0: the next free one); raises UserError if it is taken."""
    files.check_place(export_dir, "export_dir")
    files.clear(export_dir)
    target = export_dir / str(version or next_version(export_dir))
    if int(target.name) > LAST_VERSION:
        raise UserError(f"--export_dir={export_dir} has versions up to {LAST_VERSION}, the last that a model server "
                        "takes; give --version a free number.")
    if target.exists():
        raise UserError(f"--version={version}: {target} exists and a served version never changes; leave --version "
                        f"out for the next free one, {next_version(export_dir)}.")
    return target


def export(model: Any, export_dir: Union[str, Path], version: int = 0, importance_samples: int = 100,
           beside: Mapping[str, str] = {}, more: Sequence[Signature] = ()) -> Exported:
    """Writes `export_dir`/<version>/ for TensorFlow Serving, by one rename, with warm-up requests.

    Args:
      model: a built model of `pae_zoo.models`.
      export_dir: what a model server calls the base path; it holds one folder for each version.
      version: a positive integer, 0 for the next free one.
      importance_samples: samples per datum of the signature log_likelihood.
      more: further signatures, such as what a run knows of its data.
      beside: texts by the names of files in assets.extra, such as what the columns of a table are.

    Raises UserError if the version exists, RuntimeError if a signature has state.
    """
    target = check_target(Path(export_dir), version)
    functions: dict[str, Any]
    functions, left_out = trace(model, importance_samples, more)
    # Not `archive.track(model)`: the functions bring the variables they read, and tracking would save each twice.
    archive: Any = keras.export.ExportArchive()
    for name, function in functions.items():
        archive.add_endpoint(name, function)
    found, requests = {}, []
    for name, function in functions.items():
        concrete = function.get_concrete_function()
        inputs = {spec.name: spec for spec in function.input_signature}
        found[name] = (tuple(inputs), tuple(concrete.structured_outputs))
        requests.append((name, {key: _example(spec) for key, spec in inputs.items()}))
    with files.folder(target) as temporary:
        with _quiet():
            archive.write_out(str(temporary), verbose=False)
        warmup = temporary / WARMUP_FILE
        warmup.parent.mkdir()
        write_warmup(warmup, requests, model_name=Path(export_dir).resolve().name)
        for name, text in beside.items():
            (warmup.parent / name).write_text(text, encoding="utf-8")
    return Exported(target, found, left_out)


def _example(spec: tf.TensorSpec) -> np.ndarray:
    """Returns an input of the least size: one row of zeros, the number 1, the seed (0, 0)."""
    make = np.zeros if spec.shape.rank else np.ones
    return make([size or 1 for size in spec.shape.as_list()], spec.dtype.as_numpy_dtype)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps TensorFlow from announcing where the assets of a temporary folder are."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel("ERROR")
    try:
        yield
    finally:
        logger.setLevel(level)


# ---- warm-up requests ------------------------------------------------------------------------------


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
