"""Exports of every model, answered in one process that cannot import pae_zoo, by Python's and C's loader."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from battery import EVENT_SHAPE, LATENT_DIM, ROWS, build, images
from tiers import some

from pae_zoo import export as launcher
from pae_zoo import serving
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch
from pae_zoo.models.vae import VAE

CASES = {
    **{name: dict(name=name) for name in ROWS},
    "vae_whole": dict(name="vae"),
    "vae_bernoulli": dict(name="vae", likelihood="bernoulli", preprocess=("binarise_dynamic",)),
    "vae_logit": dict(name="vae", preprocess=("dequantise", "logit", "centre"), posterior_std="exp"),
}
# Signatures of the case that runs by default: all but those that search, which take as long as the others together.
SHORT = {"vae": ("serving_default", "encode", "decode", "sample", "elbo", "ood_scores", "log_likelihood", "predictive",
                 "log_prob", "log_prob_latent", "log_density_manifold")}
# Answered by Python's loader too, which is the slow one; C's is what TensorFlow Serving runs.
PYTHON_CASES = ("vae", "pae")
BY_DEFAULT = ("vae",)
cases = pytest.mark.parametrize("case", some(list(CASES), BY_DEFAULT))
BATCHES = (1, 7)
# What a search answers is compared by these outputs alone, to this: rounding decides where it ends.
SEARCHES = {"geodesic": (("length",), 1e-2), "restore": (("map", "mean", "std"), 2e-2)}
SEED, OTHER_SEED = (5, -6), (5, 7)
SAMPLES = 20
# Row of the larger batch that is not finite.
BROKEN = 3


def requests(model, exported):
    """Returns {(number, signature): inputs} that call every signature at several batch sizes and seeds."""
    found, generator = {}, np.random.default_rng(1)
    for signature, (inputs, _) in exported.signatures.items():
        for batch in BATCHES:
            for seed in (SEED, OTHER_SEED) if (signature, batch) == ("sample", 7) else (SEED,):
                values = {
                    "x": images(batch, seed=batch),
                    "z": generator.normal(size=(batch, LATENT_DIM)).astype(np.float32),
                    "n": np.int32(batch),
                    "seed": np.array(seed, np.int32),
                    "mask": generator.integers(0, 2, (batch, *EVENT_SHAPE)).astype(np.float32),
                }
                values["start"], values["end"] = values["z"], generator.normal(size=(batch, LATENT_DIM))
                values["end"] = values["end"].astype(np.float32)
                if batch > BROKEN:
                    values["x"][BROKEN, 0, 0], values["z"][BROKEN, 0] = np.nan, np.nan
                    values["mask"][BROKEN, 0, 0] = 1.0
                found[len(found), signature] = {name: values[name] for name in inputs}
    return found


def wrong(model, exported):
    """Returns {"<number>/<signature>/<input>": an input of another shape}, for every input of every signature."""
    of_x = [(2, *model.event_shape[:-1]), model.event_shape, (2, *model.event_shape[:-1], 2), (2, 1, 1, 1)]
    of_z = [(2, LATENT_DIM + 1), (LATENT_DIM,), (2, 1)]
    shapes = {"seed": [(3,), (1,), ()], "x": of_x, "mask": of_x, "z": of_z, "start": of_z, "end": of_z}
    return {f"{number}/{signature}/{name}": np.zeros(shape, np.int32 if name == "seed" else np.float32)
            for signature, (inputs, _) in exported.signatures.items()
            for name in inputs for number, shape in enumerate(shapes.get(name, ()))}  # fmt: skip


def expected(model, signature, inputs, traced):
    """Returns what the Keras model itself says, eagerly, but for the signatures that are in `traced`."""
    x, seed = inputs.get("x"), inputs.get("seed")
    if signature == "serving_default":
        return {"x": model.predict(x, verbose=0)}
    if signature == "encode" and seed is not None:
        proposal_seed, draw_seed = seeds.split(seed, 2)
        return {"z": model.encode(x, proposal_seed).sample(seed=draw_seed)}
    if signature == "encode":
        posterior = model.encode(x)
        names = ("mean",) if isinstance(model.encode(x[:1]), tfp.distributions.VectorDeterministic) else (
            "mean", "stddev")  # fmt: skip
        return {name: getattr(posterior, name)() for name in names}
    if signature == "decode":
        return {"x": model.decode_mean(inputs["z"])}
    if signature == "sample":
        return {"x": model.sample(int(inputs["n"]), seed)}
    if signature == "elbo":
        return {"elbo": model.elbo(x, seed)}
    if signature == "log_likelihood":
        return {"log_likelihood": model.log_likelihood(x, SAMPLES, seed)}
    if signature == "ood_scores":
        return model.ood_scores(x, seed)
    if signature == "predictive":
        found = model.predictive(x, getattr(model, "test_samples", SAMPLES), seed)
        return {"mean": found["mean"], "std": tf.sqrt(found["epistemic_variance"]),
                "noise_std": tf.sqrt(found["aleatoric_variance"]), "latent_mean": found["latent_mean"],
                "latent_std": tf.sqrt(found["latent_variance"])}  # fmt: skip
    if signature == "log_prob":
        z = model.point(model.preprocess(x)[0])
        return {"log_prob_latent": model.log_prob_latent(z), "z": z, "u": model.base_from_latent(z)}
    if signature == "log_prob_latent":
        return {"log_prob": model.log_prob_latent(inputs["z"])}
    if signature == "log_density_manifold":
        return {"log_density_manifold": model.log_density_manifold(x)}
    if signature in traced:
        return traced[signature](*map(tf.constant, inputs.values()))
    names, function = model.serving_signatures()[signature]  # the model's own, run eagerly
    return function(*(inputs[name] for name in names))


@pytest.fixture(scope="module")
def served(request, tmp_path_factory):
    """{case: (what export said, requests, the model's own answers, folder with the served answers)}.

    One process answers for all cases that the chosen tests ask for.
    """
    chosen = {item.callspec.params.get("case") for item in request.session.items if hasattr(item, "callspec")}
    folder, empty = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("empty")
    found = {}
    for case, flags in CASES.items():
        if case not in {*chosen, "vae"}:
            continue
        model = build(**flags)
        exported = serving.export(model, folder / case / "model", importance_samples=SAMPLES,
                                 only=SHORT.get(case, ()))
        asked = requests(model, exported)
        arrays = {f"{number}/{name}/{key}": value for (number, name), inputs in asked.items()
                  for key, value in inputs.items()}  # fmt: skip
        np.savez(folder / case / "requests.npz", **arrays)
        np.savez(folder / case / "wrong.npz", **wrong(model, exported))
        searches = set(SEARCHES) & set(exported.signatures)  # eagerly they take minutes
        traced = serving.trace(model, SAMPLES, only=searches)[0] if searches else {}
        own = {f"{number}/{name}/{output}": np.asarray(value) for (number, name), inputs in asked.items()
               for output, value in expected(model, name, inputs, traced).items()}  # fmt: skip
        found[case] = (exported, asked, own, folder / case)
    script = Path(__file__).with_name("serving_process.py")
    command = [sys.executable, "-I", str(script), str(folder), *PYTHON_CASES]
    done = subprocess.run(command, cwd=empty, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return found


@pytest.mark.parametrize(
    "case,loader", some([(case, loader) for case in CASES for loader in ("c_api", "python")
                         if loader == "c_api" or case in PYTHON_CASES],
                        [*((case, "c_api") for case in BY_DEFAULT), ("vae", "python")]))
def test_served_answers_are_the_models(served, case, loader):
    exported, _, own, folder = served[case]
    with np.load(folder / f"{loader}.npz") as file:
        answers = dict(file)
    assert set(answers.pop("signatures")) == set(exported.signatures)
    refusals = {key: str(answers.pop(key)) for key in list(answers) if key.startswith("refused/")}
    assert refusals
    for key, message in refusals.items():
        assert re.search(rf"\b(input_)?{key.rpartition('/')[2]}\b", message) and "shape" in message, (key, message)
    assert set(answers) == set(own)
    for key, value in own.items():
        _, signature, output = key.split("/")
        outputs, tolerance = SEARCHES.get(signature, ((output,), 1e-5))
        assert answers[key].dtype == (bool if output == "converged" else np.float32)
        assert answers[key].shape == value.shape
        if output in outputs:
            atol = tolerance * np.nanmax(np.abs(value))
            np.testing.assert_allclose(answers[key], value, rtol=tolerance, atol=atol, err_msg=key)
        if output == "converged":
            assert len(value) <= BROKEN or not answers[key][BROKEN]
        elif len(value) > BROKEN and "/sample/" not in key:
            assert np.isnan(value[BROKEN]).all() and np.isnan(answers[key][BROKEN]).all(), key


@cases
def test_the_seed_decides_the_draw(served, case):
    exported, asked, _, folder = served[case]
    if "sample" not in exported.signatures:
        assert exported.left_out["sample"].endswith(".")
        return
    with np.load(folder / "c_api.npz") as file:
        drawn = {tuple(inputs["seed"]): file[f"{number}/sample/x"] for (number, name), inputs in asked.items()
                 if name == "sample" and inputs["n"] == 7}  # fmt: skip
    assert not np.allclose(drawn[SEED], drawn[OTHER_SEED])


@cases
def test_signatures_are_those_the_model_offers(served, case):
    offers = ROWS[CASES[case]["name"]].offers
    exported, _, _, _ = served[case]
    assert {"serving_default", "encode", "decode", "ood_scores"} <= set(exported.signatures)
    for signature, offer in (("sample", "sample"), ("elbo", "elbo"), ("log_likelihood", "likelihood"),
                             ("predictive", "predictive"), ("log_prob", "prior"), ("log_density_manifold", "surface")):
        assert (signature in exported.signatures) == (offer in offers)
        assert (signature in exported.left_out) == (offer not in offers)
    assert exported.signatures["ood_scores"][0] == ("x", "seed")


@pytest.fixture(scope="module")
def loaded(served):
    """{case: the export as Python loads it}."""
    return {case: tf.saved_model.load(str(exported.path)) for case, (exported, _, _, _) in served.items()}


@cases
def test_warmup_requests_run(served, loaded, case):
    exported, _, _, _ = served[case]
    found = serving.read_warmup(exported.path / serving.WARMUP_FILE)
    assert [name for name, _ in found] == list(exported.signatures)
    for name, inputs in found:
        outputs = loaded[case].signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
        assert set(outputs) == set(exported.signatures[name][1])
        assert not any(np.isnan(value).any() for value in outputs.values())  # the density of a flat surface is infinite


@cases
def test_nothing_is_compiled_and_the_batch_is_free(loaded, case):
    for concrete in loaded[case].signatures.values():
        graph = concrete.graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        assert not any(node.attr["_XlaMustCompile"].b for node in nodes)
        assert not serving.stateful_operations(concrete)
        for spec in concrete.structured_input_signature[1].values():
            assert spec.shape.rank == 0 or spec.name == "seed" or spec.shape[0] is None
        assert all(output.shape[0] is None for output in concrete.outputs)



# ---- versions, and what is refused -------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return build("ae")


def test_versions_count_up_and_never_change(model, tmp_path):
    base = tmp_path / "deep" / "served"
    assert serving.next_version(base) == 1
    assert serving.export(model, base, version=7, only=("encode",)).path.name == "7"
    (base / "notes").mkdir()
    assert serving.export(model, base, only=("encode",)).path.name == "8"
    with pytest.raises(UserError, match="next free one, 9"):
        serving.export(model, base, version=7, only=("encode",))
    assert sorted(child.name for child in base.iterdir()) == ["7", "8", "notes"]


def test_each_weight_is_saved_once(served):
    exported, _, _, _ = served["vae"]
    saved = tf.train.list_variables(str(exported.path / "variables" / "variables"))
    count = sum(int(np.prod(shape)) for name, shape in saved if "OBJECT_GRAPH" not in name)
    assert count == build("vae").count_params() - 2  # but the counters `step` and `adapted`, which no function reads


def test_a_failed_export_leaves_nothing(model, tmp_path, monkeypatch):
    monkeypatch.setattr(serving.warmup, "write_warmup", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        serving.export(model, tmp_path / "deep" / "served", only=("encode",))
    assert list(tmp_path.iterdir()) == []


class Hidden(VAE):
    """A model whose scores draw from the generator instead of the seed."""

    def ood_scores(self, x, seed=None):
        return {"elbo": -self.elbo(x)}


class Flow(VAE):
    """A posterior without closed-form moments, and a signature of its own."""

    def encode(self, x, seed=None):
        return tfp.distributions.TransformedDistribution(super().encode(x, seed), tfp.bijectors.Softplus())

    def serving_signatures(self):
        scale = tf.TensorSpec((), tf.float32, name="scale")
        return {
            "scaled": (("x", scale), lambda x, scale: {"x": scale * self(x)}),
            "elbo": (("x",), lambda x: {"elbo": self.elbo(x, (0, 0))}),
        }


def variant(cls):
    made = build("vae", adapted=False)
    return cls(made.encoder, made.decoder)


def test_an_unknown_signature_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="signatures='encod' is unknown; .*did you mean encode"):
        serving.export(model, tmp_path / "served", only=("decode", "encod"))
    assert not list(tmp_path.iterdir())


def test_hidden_state_is_refused():
    with pytest.raises(RuntimeError, match="ood_scores of Hidden has state: Assign"):
        serving.trace(variant(Hidden))


def test_a_model_adds_signatures_and_replaces_them(tmp_path):
    exported = serving.export(variant(Flow), tmp_path)
    assert exported.signatures["encode"] == (("x", "seed"), ("z",))
    assert exported.signatures["scaled"] == (("x", "scale"), ("x",))
    assert exported.signatures["elbo"] == (("x",), ("elbo",))
    assert set(exported.left_out) == {"log_density_manifold"}
    loaded = tf.saved_model.load(str(exported.path))
    codes = [loaded.signatures["encode"](x=images(3), seed=tf.constant(seed))["z"] for seed in (SEED, SEED, OTHER_SEED)]
    np.testing.assert_array_equal(codes[0], codes[1])
    assert not np.allclose(codes[0], codes[2])


# ---- the command -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The work directory of a finished run of the model ae."""
    from battery import hparams

    from pae_zoo.experiment.workdir import Run

    run = Run(tmp_path_factory.mktemp("run") / "ae")
    run.write_config(hparams("ae"))
    run.save("model.keras", build("ae").save)
    return run.workdir


def test_the_command_exports_and_says_what_is_left_out(finished, tmp_path, capsys):
    flags = [f"--workdir={finished}", f"--export_dir={tmp_path}/ae", "--signatures=encode,decode,sample"]
    assert launch.run(launcher.main, flags) == 0
    text = capsys.readouterr().out
    assert f"wrote {tmp_path}/ae/1" in text and "encode           x -> mean\n" in text
    assert "sample           left out: AE has no density over its latent space." in text
    assert "serving_default" not in text and (tmp_path / "ae" / "1" / "saved_model.pb").exists()


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--export_dir={new}"], "--workdir is needed"),
        (["--workdir={run}"], "--export_dir is needed"),
        (["--workdir={empty}", "--export_dir={new}"], "is not the work directory of a run"),
        (["--workdir={run}", "--export_dir={taken}", "--version=3"], "next free one, 4"),
        (["--workdir={run}", "--export_dir={file}"], "is a file"),
        (["--workdir={run}", "--export_dir={new}", "--signatures=sampel"], "did you mean sample"),
        (["--workdir={run}", "--export_dir={new}", "--version=-1"], "at least 0"),
        (["--workdir={run}", "--export_dir={new}", "--versoin=1"], "did you mean version"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(finished, tmp_path, capsys, flags, words):
    places = {"run": finished, "empty": tmp_path / "empty", "new": tmp_path / "new", "taken": tmp_path / "taken",
              "file": tmp_path / "file"}  # fmt: skip
    places["empty"].mkdir()
    (places["taken"] / "3").mkdir(parents=True)
    places["file"].write_text("text")
    before = sorted(tmp_path.rglob("*"))
    assert launch.run(launcher.main, [flag.format(**places) for flag in flags]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
