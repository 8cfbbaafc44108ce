"""The REST API: /v1/models/NAME[/versions/N], the same with /metadata, and with :predict."""

import http.server
import json
import re
import threading
from typing import Any
from urllib.parse import unquote

from google.protobuf import json_format
from tensorflow_serving.apis import get_model_metadata_pb2, model_pb2

from model_serving import grpc_api, json_tensors, versions
from model_serving.c_api import Failed

_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?"
PREDICT = re.compile(rf"{_MODEL}:(classify|regress|predict)", re.IGNORECASE)
STATUS = re.compile(rf"{_MODEL}(?:/(metadata))?", re.IGNORECASE)
#: HTTP statuses of `tensorflow.error.Code`, as TensorFlow Serving gives them; 500 for others
HTTP = {3: 400, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 14: 503, 16: 401, 4: 504}


def spec_of(name: str, version: str | None, label: str | None) -> Any:
    """Returns the ModelSpec of a path."""
    spec = model_pb2.ModelSpec(name=unquote(name))
    if version:
        spec.version.value = int(version)
    if label:
        spec.version_label = unquote(label)
    return spec


def answer(model: versions.Versions, method: str, path: str, body: bytes) -> str:
    """Returns the body of the answer to a request; raises Failed."""
    if method == "POST" and (match := PREDICT.fullmatch(path)):
        *place, verb = match.groups()
        if verb.lower() != "predict":
            raise Failed(versions.UNIMPLEMENTED, f"{verb} is not answered here; predict is.")
        return predicted(model, spec_of(*place), json_tensors.parse(body))
    if method == "GET" and (match := STATUS.fullmatch(path)):
        *place, part = match.groups()
        spec = spec_of(*place)
        if not part:
            return _text(grpc_api.status(model, spec))
        found = grpc_api.metadata(model, spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        found.metadata["signature_def"].Unpack(signatures)
        return json.dumps({"model_spec": json.loads(_text(found.model_spec)),
                           "metadata": {"signature_def": json.loads(_text(signatures))}})
    raise Failed(versions.INVALID_ARGUMENT, f"Malformed request: {method} {path}")


def predicted(model: versions.Versions, spec: Any, request: dict[str, Any]) -> str:
    """Returns the body of the answer to a prediction request; raises Failed."""
    _, found = model.get(spec.name, grpc_api.version_of(spec))
    signature = request.get("signature_name") or versions.DEFAULT
    if signature not in found.definitions:
        raise Failed(versions.INVALID_ARGUMENT, f'Serving signature name: "{signature}" not found in signature def')
    form, inputs = json_tensors.tensors(request, found.definitions[signature].inputs)
    return json_tensors.answer(form, versions.predict(found, signature, inputs))


def _text(message: Any) -> str:
    return json_format.MessageToJson(message, preserving_proto_field_name=True,
                                     always_print_fields_with_no_presence=True)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers in JSON, errors too: {"error": words}; connections stay open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    model: versions.Versions

    def do_GET(self):
        self._answer(b"")

    def do_POST(self):
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        code = 200
        try:
            text = answer(self.model, self.command, self.path.partition("?")[0], body)
        except Failed as error:
            code, text = HTTP.get(error.code, 500), json.dumps({"error": str(error)})
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        """Says nothing: a line a request would be what a load test measures."""


def serve(model: versions.Versions, host: str, port: int) -> http.server.ThreadingHTTPServer:
    """Starts a server, at a free port for 0, and returns it; raises OSError for a port that is taken."""
    handler = type("Handler", (Handler,), {"model": model})
    server = http.server.ThreadingHTTPServer((host, port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server
