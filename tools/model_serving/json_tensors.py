"""Requests and answers of :predict as JSON, in row format (instances) and column format (inputs), as documented.

https://www.tensorflow.org/tfx/serving/api_rest: numbers may be NaN, Infinity and -Infinity; bytes are {"b64": text}; of
one input or output alone the name is left out; names of string outputs that hold bytes end in _bytes.
"""

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from model_serving.c_api import Failed
from model_serving.versions import INVALID_ARGUMENT

ROW, COLUMN = "instances", "inputs"


def refused(message: str) -> Failed:
    """Returns the error of a request that is not understood."""
    return Failed(INVALID_ARGUMENT, message)


def parse(body: bytes) -> dict[str, Any]:
    """Returns the object that a request's body is; raises Failed."""
    try:
        found = json.loads(body)
    except ValueError as error:
        raise refused(f"JSON Parse error: {error}") from error
    if not isinstance(found, dict):
        raise refused(f"Request is not a JSON object: {json.dumps(found)[:80]}")
    if not isinstance(found.get("signature_name", ""), str):
        raise refused("'signature_name' is not a string")
    return found


def tensors(request: Mapping[str, Any], infos: Mapping[str, Any]) -> tuple[str, dict[str, np.ndarray]]:
    """Returns the format of a request and its inputs, by the TensorInfo of each input; raises Failed."""
    if (ROW in request) == (COLUMN in request):
        if ROW in request:
            raise refused("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist")
        raise refused("Missing 'inputs' or 'instances' key")
    types = {name: tf.as_dtype(info.dtype) for name, info in infos.items()}
    if COLUMN in request:
        return COLUMN, _columns(request[COLUMN], types)
    rows = request[ROW]
    if not isinstance(rows, list) or not rows:
        raise refused("'instances' is not a list with at least one value")
    return ROW, _rows(rows, types)


def _columns(value: Any, types: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    if not isinstance(value, dict) or _is_bytes(value):
        if len(types) > 1:
            raise refused("inputs is a plain value/list, but expecting an object as multiple input tensors required as "
                          "per tensorinfo_map")
        return {name: _array(value, kind, name) for name, kind in types.items()}
    for name in types:
        if name not in value:
            raise refused(f"Missing named input: {name} in 'inputs' object.")
    return {name: _array(value[name], kind, name) for name, kind in types.items()}


def _rows(rows: list, types: Mapping[str, tf.DType]) -> dict[str, np.ndarray]:
    named = isinstance(rows[0], dict) and not _is_bytes(rows[0])
    if not named and len(types) > 1:
        raise refused("instances is a plain list, but expecting list of objects as multiple input tensors required "
                      "as per tensorinfo_map")
    for number, row in enumerate(rows):
        if (isinstance(row, dict) and not _is_bytes(row)) != named:
            raise refused(f"'instances' is a mix of objects and values at item {number}")
        if named and set(row) != set(types):
            raise refused(f"Failed to process element: {number} of 'instances' list. JSON object keys must be equal "
                          f"to: {','.join(sorted(types))}")
    columns = {name: [row[name] for row in rows] for name in types} if named else {next(iter(types)): rows}
    return {name: _array(column, types[name], name) for name, column in columns.items()}


def _is_bytes(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _array(value: Any, kind: tf.DType, name: str) -> np.ndarray:
    """Returns nested lists as an array of a type that they can be taken for without loss; raises Failed."""
    if kind == tf.string:
        flat, shape = _flattened(value)
        if not all(isinstance(one, str) or _is_bytes(one) for one in flat):
            raise refused(f"JSON Value of {name} is not of expected type: string")
        try:
            texts = [one.encode() if isinstance(one, str) else base64.b64decode(one["b64"], validate=True)
                     for one in flat]
        except binascii.Error as error:
            raise refused("Unable to base64 decode") from error
        found = np.empty(len(texts), object)
        found[:] = texts
        return found.reshape(shape)
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise refused(f"Encountered list at unexpected size in {name}: {error}") from error
    allowed = {"f": "iuf", "i": "iu", "u": "iu", "b": "b"}[np.dtype(kind.as_numpy_dtype).kind]
    if found.size and found.dtype.kind not in allowed:
        raise refused(f"JSON Value of {name} is not of expected type: {kind.name}")
    if kind.is_integer and found.size and not kind.min <= found.min() <= found.max() <= kind.max:
        raise refused(f"JSON Value of {name} does not fit into {kind.name}")
    return found.astype(kind.as_numpy_dtype)


def _flattened(value: Any) -> tuple[list, tuple[int, ...]]:
    if not isinstance(value, list):
        return [value], ()
    parts = [_flattened(one) for one in value]
    if len({shape for _, shape in parts}) > 1:
        raise refused("Encountered list at unexpected size")
    return [one for flat, _ in parts for one in flat], (len(value), *(parts[0][1] if parts else ()))


def answer(form: str, outputs: Mapping[str, np.ndarray]) -> str:
    """Returns the body of an answer in the format of its request; raises Failed where outputs share no rows."""
    values = {name: _listed(name, outputs[name]) for name in sorted(outputs)}
    if form == COLUMN:
        return json.dumps({"outputs": values if len(values) > 1 else next(iter(values.values()))})
    sizes = {name: array.shape[0] if array.ndim else None for name, array in outputs.items()}
    if len(set(sizes.values())) > 1 or None in sizes.values():
        raise refused(f"Tensors have inconsistent batch size: {sizes}")
    if len(values) == 1:
        return json.dumps({"predictions": next(iter(values.values()))})
    return json.dumps({"predictions": [dict(zip(values, row)) for row in zip(*values.values())]})


def _listed(name: str, array: np.ndarray) -> Any:
    if array.dtype == object:
        write = (lambda text: {"b64": base64.b64encode(text).decode()}) if name.endswith("_bytes") else bytes.decode
        return np.array([write(one) for one in array.ravel()], object).reshape(array.shape).tolist()
    return array.tolist()
