"""The server that exports are checked against, and the check: over gRPC and REST, on loopback."""

import base64
import contextlib
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from battery import build
from tensorflow.core.protobuf import meta_graph_pb2

pytest.importorskip("tensorflow_serving", reason="pip install tensorflow-serving-api")

import serve_check  # noqa: E402
from model_serving import c_api, checks, clients, grpc_api, json_tensors, rest_api, versions  # noqa: E402

from pae_zoo import serving  # noqa: E402

SIGNATURES = ("serving_default", "encode", "sample")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The folder of a tiny exported model, version 1."""
    base = tmp_path_factory.mktemp("served") / "tiny"
    serving.export(build("vae"), base, only=SIGNATURES)
    return base


@contextlib.contextmanager
def served(base, **options):
    """Yields (versions, host:port of gRPC, of REST) of a server in this process, whose folder is looked at once."""
    model = versions.Versions(base.name, base, tell=lambda line: None, **options)
    model.poll()
    server, port = grpc_api.serve(model, "127.0.0.1", 0, 4)
    rest = rest_api.serve(model, "127.0.0.1", 0)
    try:
        yield model, f"127.0.0.1:{port}", f"127.0.0.1:{rest.server_port}"
    finally:
        rest.shutdown()
        rest.server_close()
        server.stop(0).wait()


def test_a_server_of_the_folder_holds_and_one_of_another_does_not(exported, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(serve_check, "SHORT", 0.1)  # seconds that a server may take to answer
    with served(exported) as (_, grpc_host, rest_host):
        flags = [f"--grpc={grpc_host}", f"--rest={rest_host}", "--requests=40", f"--pid={os.getpid()}"]
        assert serve_check.main([*flags, f"--export_dir={exported}"]) == 0
        text = capsys.readouterr().out
        assert text.count("  ok ") == len(SIGNATURES) and "BAD" not in text
        assert text.count(" requests by 4 clients: ") == 4 and "MiB" in text and "not known" not in text
        # The same names and shapes, other weights: every value is another.
        other = tmp_path / "tiny"
        serving.export(build("vae", seed=5), other, only=SIGNATURES)
        assert serve_check.main([*flags, f"--export_dir={other}"]) == 1
        assert capsys.readouterr().out.count("  BAD ") == len(SIGNATURES)
        assert serve_check.main([*flags, f"--export_dir={other}", "--model_name=nothing"]) == 2
        assert "Could not find any versions of model nothing" in capsys.readouterr().err


def test_versions_change_over_and_a_broken_one_does_not_stop_the_others(exported, tmp_path):
    base = tmp_path / "tiny"
    shutil.copytree(exported, base)
    with served(base) as (model, grpc_host, _):
        client = clients.Grpc(grpc_host, "tiny")
        x = {"x": np.random.default_rng(0).random((2, 6, 6, 1), np.float32)}
        before = client.predict("encode", x)["mean"]
        serving.export(build("vae", seed=5), base, only=SIGNATURES)
        model.poll()
        assert client.states() == {2: "AVAILABLE", 1: "END"}
        assert not np.allclose(client.predict("encode", x)["mean"], before)
        with pytest.raises(clients.Refused, match=r"NOT_FOUND: Servable not found for request: Specific\(tiny, 1\)"):
            client.predict("encode", x, 1)
        (base / "3").mkdir()
        (base / "3" / "saved_model.pb").write_bytes(b"no graph")
        model.poll()
        assert client.states() == {3: "END", 2: "AVAILABLE", 1: "END"} and model.states[3].code
        client.predict("encode", x)
        client.close()
    with served(base, keep_all=True) as (_, _, rest_host):
        client = clients.Rest(rest_host, "tiny")
        np.testing.assert_allclose(client.predict("encode", x, 1)["mean"], before, atol=1e-6)
        client.close()


def test_rest_names_one_output_by_nothing_and_reads_bytes(tmp_path):
    class Upper(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text"),
                                      tf.TensorSpec((None,), tf.int32, name="twice")])
        def several(self, text, twice):
            return {"upper": tf.strings.upper(text), "reversed_bytes": text, "number": 2 * twice}

        @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, name="text")])
        def one(self, text):
            return {"length": tf.strings.length(text)}

    module = Upper()
    both = {"several": module.several, "serving_default": module.one}
    tf.saved_model.save(module, str(tmp_path / "upper" / "1"), both)
    raw = base64.b64encode(b"\x00\xff").decode()
    with served(tmp_path / "upper") as (_, grpc_host, rest_host):
        client = clients.Rest(rest_host, "upper")

        def post(path=":predict", **body):
            return client.call("POST", f"/v1/models/upper{path}", json.dumps(body).encode())

        assert post(instances=["abc", {"b64": raw}]) == {"predictions": [3, 2]}
        assert post("/versions/1:predict", inputs=["ab"]) == {"outputs": [2]}
        assert post(inputs={"text": ["ab"]}) == {"outputs": [2]}
        both = {"signature_name": "several"}
        rows = [{"text": "a", "twice": 1}, {"text": {"b64": raw[:0]}, "twice": -2}]
        assert post(**both, instances=rows)["predictions"] == [
            {"number": 2, "reversed_bytes": {"b64": "YQ=="}, "upper": "A"},
            {"number": -4, "reversed_bytes": {"b64": ""}, "upper": ""}]
        assert post(**both, inputs={"text": ["a"], "twice": [3]})["outputs"] == {
            "number": [6], "reversed_bytes": [{"b64": "YQ=="}], "upper": ["A"]}
        for words, code, path, body in (
            ("Missing 'inputs' or 'instances' key", 400, ":predict", {}),
            ("expecting only one of", 400, ":predict", {"inputs": ["a"], "instances": ["a"]}),
            ("Unable to base64 decode", 400, ":predict", {"inputs": [{"b64": "?"}]}),
            ("is not of expected type: string", 400, ":predict", {"inputs": [1]}),
            ("is not of expected type: int32", 400, ":predict", {**both, "inputs": {"text": ["a"], "twice": [1.5]}}),
            ("does not fit into int32", 400, ":predict", {**both, "inputs": {"text": ["a"], "twice": [2**40]}}),
            ("Missing named input: twice", 400, ":predict", {**both, "inputs": {"text": ["a"]}}),
            ("keys must be equal to: text,twice", 400, ":predict", {**both, "instances": [{"text": "a"}]}),
            ("plain list, but expecting list of objects", 400, ":predict", {**both, "instances": ["a"]}),
            ("at least one value", 400, ":predict", {"instances": []}),
            ("unexpected size", 400, ":predict", {"inputs": [["a"], ["b", "c"]]}),
            ("not found in signature def", 400, ":predict", {"signature_name": "no", "inputs": ["a"]}),
            ("Servable not found for request: Specific(upper, 7)", 404, "/versions/7:predict", {"inputs": ["a"]}),
            ("Malformed request", 400, ":explain", {}),
            ("classify is not answered here", 501, ":classify", {}),
        ):
            with pytest.raises(clients.Refused) as told:
                post(path, **body)
            assert told.value.code == code and words in told.value.message, (body, told.value)
        client.close()
        with contextlib.closing(clients.Grpc(grpc_host, "upper")) as client:
            inputs = {"text": np.array([b"\x00\xff"], object), "twice": np.array([4], np.int32)}
            found = client.predict("several", inputs)
            assert found["reversed_bytes"].tolist() == [b"\x00\xff"] and found["number"].tolist() == [8]
            request = client.request("several", inputs)
            request.output_filter.append("number")
            assert set(client.ask(request).outputs) == {"number"}
            request.output_filter.append("none")
            with pytest.raises(clients.Refused, match="alias not found in signature: none"):
                client.ask(request)
            with pytest.raises(clients.Refused, match=r"INVALID_ARGUMENT: .* Missing but required: \{twice\}"):
                client.predict("several", {"text": np.array(["a"], object)})
            with pytest.raises(clients.Refused, match=r"INVALID_ARGUMENT: Expects arg\[twice\] to be int32"):
                client.predict("several", {"text": np.array(["a"], object), "twice": np.ones(1)})


def test_numbers_that_are_none_travel_as_json():
    infos = {"x": meta_graph_pb2.TensorInfo(dtype=tf.float32.as_datatype_enum)}
    body = json.dumps({"inputs": [[float("nan"), float("inf")], [1, -2.5]]}).encode()
    form, found = json_tensors.tensors(json_tensors.parse(body), infos)
    assert form == "inputs" and found["x"].dtype == np.float32
    np.testing.assert_array_equal(found["x"], [[np.nan, np.inf], [1, -2.5]])
    assert json.loads(json_tensors.answer(form, {"y": found["x"]}))["outputs"][1] == [1.0, -2.5]
    with pytest.raises(c_api.Failed, match="inconsistent batch size"):
        json_tensors.answer("instances", {"y": found["x"], "z": np.zeros(3)})


def test_differences():
    one = {"a": np.array([1.0, np.nan]), "b": np.array([100.0])}
    assert checks.difference(one, one) == 0.0
    assert checks.difference({**one, "b": np.array([101.0])}, one) == pytest.approx(0.01)
    assert checks.difference({**one, "a": np.array([1.0, 2.0])}, one) == np.inf
    assert checks.difference({"a": one["a"]}, one) == np.inf
    assert checks.difference({**one, "b": np.zeros((1, 1))}, one) == np.inf
    assert checks.difference({"": one["b"]}, {"b": one["b"]}) == 0.0
