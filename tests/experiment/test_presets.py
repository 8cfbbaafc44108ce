"""Presets: those of the package load and have the figures of their cards; making, copying, damaged files, bad names."""

import hashlib
import http.server
import json
import shutil
import threading
import urllib.parse

import keras
import numpy as np
import pytest

import pae_zoo
from pae_zoo import networks, preset
from pae_zoo.core.errors import UserError
from pae_zoo.experiment import launch, preset_places, presets
from pae_zoo.experiment.workdir import Run

NAMES = sorted(pae_zoo.presets())
EMBEDDED = [name for name in NAMES if json.loads((presets.SHIPPED / name / "config.json").read_text())["hparams"][
    "dataset"] == "digits"]  # fmt: skip
MOST_BYTES, MOST_OF_ONE = 60 << 20, 6 << 20


def mean_square(model, x):
    """Returns the mean square of the errors of pixels of test images."""
    x = x.astype(np.float32) / 255 if x.dtype == np.uint8 else x
    return np.mean((model.predict(x, verbose=0) - x) ** 2)


def test_the_package_has_some_and_they_are_small():
    assert {"vae_digits", "pae_digits_labels"} <= set(NAMES)
    sizes = [sum(path.stat().st_size for path in (presets.SHIPPED / name).iterdir()) for name in NAMES]
    assert max(sizes) < MOST_OF_ONE and sum(sizes) < MOST_BYTES
    for name in NAMES:
        files = {path.name for path in (presets.SHIPPED / name).iterdir()}
        assert {"README.md", "config.json", "flags.cfg", "metrics.json", "model.keras", "preset.json"} <= files
        told = ("README.md", "config.json", "flags.cfg")
        text = "".join((presets.SHIPPED / name / file).read_text() for file in told)
        assert "/tmp" not in text and "data_dir=/" not in text


@pytest.mark.parametrize("name", NAMES)
def test_each_loads(name):
    model, facts = pae_zoo.from_preset(name), presets.facts(presets.SHIPPED / name)
    assert type(model).__name__ == facts["class"] and list(model.event_shape) == facts["event_shape"]
    assert np.isfinite(model.decode_mean(np.zeros((2, model.latent_dim), np.float32))).all()


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_figure_of_the_card_is_that_of_the_weights(name):
    recorded = Run(presets.SHIPPED / name).read_metrics()["test/mse"]
    digits = pae_zoo.data.load("digits")
    assert mean_square(pae_zoo.from_preset(name), digits.test.x) == pytest.approx(recorded, rel=1e-4)


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in NAMES if "fashion_mnist" in name])
def test_the_same_on_real_images(name, data_dir):
    recorded = Run(presets.SHIPPED / name).read_metrics()["test/mse"]
    images = pae_zoo.data.load("fashion_mnist", data_dir=data_dir)
    assert mean_square(pae_zoo.from_preset(name), images.test.x) == pytest.approx(recorded, rel=1e-4)


def test_a_copy_is_a_run(tmp_path, capsys):
    assert launch.run(preset.main, ["--name=vae_digits", f"--workdir={tmp_path / 'run'}"]) == 0
    run = Run(tmp_path / "run")
    assert run.load_model().event_shape == (8, 8, 1) and "test/mse" in capsys.readouterr().out
    assert launch.run(preset.main, ["--name=vae_digits", f"--workdir={tmp_path / 'run'}"]) == 2
    assert "exists" in capsys.readouterr().err


def test_a_model_is_saved_whole_and_loaded(tmp_path):
    encoder = networks.build_encoder("mlp", (3,), latent_dim=2, hidden_units=(4,))
    model = pae_zoo.VAE(encoder, networks.build_decoder("mlp", (3,), latent_dim=2, hidden_units=(4,)))
    model.compile("adam")
    for place in ("first", "second"):
        pae_zoo.save_to_preset(model, str(tmp_path / place), "three numbers")
    again = pae_zoo.from_preset(str(tmp_path / "first"))
    x = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(again.elbo(x, (0, 1)), model.elbo(x, (0, 1)))
    # The same weights are the same file.
    first, second = (presets.facts(tmp_path / place) for place in ("first", "second"))
    assert first == second and first["title"] == "three numbers"
    with pytest.raises(UserError, match="exists"):
        pae_zoo.save_to_preset(model, str(tmp_path / "first"))
    with pytest.raises(UserError, match="model alone"):
        presets.copy(str(tmp_path / "first"), str(tmp_path / "run"))


def test_what_is_not_the_file_is_told(tmp_path):
    with pytest.raises(UserError, match="no preset 'vae_digit'; did you mean vae_digits"):
        pae_zoo.from_preset("vae_digit")
    there = presets.SHIPPED / "vae_digits"
    for name in ("preset.json", "model.keras"):
        (tmp_path / name).write_bytes((there / name).read_bytes())
    damaged = bytearray((tmp_path / "model.keras").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (tmp_path / "model.keras").write_bytes(bytes(damaged))
    with pytest.raises(UserError, match="SHA-256"):
        pae_zoo.from_preset(str(tmp_path))
    (tmp_path / "preset.json").write_text("[]")
    with pytest.raises(UserError, match="no title"):
        pae_zoo.from_preset(str(tmp_path))


def test_rounding_keeps_eleven_bits():
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32) * np.float32(1e-9)
    found = presets.rounded(values)
    assert np.abs(found / values - 1).max() <= 2.0**-11
    np.testing.assert_array_equal(presets.rounded(found), found)
    assert not (found.view(np.uint32) & 0x0FFF).any() and presets.rounded(np.zeros(2, np.float32)).sum() == 0


@pytest.mark.full
def test_a_run_becomes_a_preset_and_a_run_again(tmp_path, capsys):
    presets.copy("vae_digits", str(tmp_path / "run"))
    assert launch.run(preset.main, [f"--from_workdir={tmp_path / 'run'}", f"--out={tmp_path / 'mine'}"]) == 0
    facts, card = presets.facts(tmp_path / "mine"), (tmp_path / "mine" / "README.md").read_text()
    assert facts["sha256"] == presets.facts(presets.SHIPPED / "vae_digits")["sha256"]  # rounded already
    assert 'from_preset("mine")' in card and "`test/mse`" in card and str(tmp_path) not in card
    assert isinstance(pae_zoo.from_preset(str(tmp_path / "mine")), keras.Model)


def test_the_cards_of_the_package_are_what_the_command_writes():
    for path in sorted(presets.SHIPPED.glob("*/config.json")):
        run = Run(path.parent)
        text = preset.card(presets.facts(run.workdir), run.workdir, run.workdir.name, run.read_hparams(),
                           run.read_metrics())  # fmt: skip
        assert text == (run.workdir / "README.md").read_text(), path.parent.name


def test_published_figures_stand_beside_those_of_the_weights(tmp_path, capsys):
    shutil.copytree(presets.SHIPPED / "vae_digits", tmp_path / "mine")
    given = [f"--card={tmp_path / 'mine'}", "--published=test/mse=0.5", "--paper=A and B, their Table 1"]
    assert launch.run(preset.main, given) == 0
    card, mse = (tmp_path / "mine" / "README.md").read_text(), Run(tmp_path / "mine").read_metrics()["test/mse"]
    assert f"| `test/mse` | {mse:.5g} | 0.5 | {mse - 0.5:.5g} |" in card
    assert "Published: A and B, their Table 1." in card
    assert presets.facts(tmp_path / "mine")["published"] == {"test/mse": 0.5}
    assert launch.run(preset.main, given[:1]) == 0  # again, of what is recorded
    assert (tmp_path / "mine" / "README.md").read_text() == card
    capsys.readouterr()
    for word, told in (("test/msee=1", "did you mean test/mse?"), ("test/mse", "give key=figure")):
        assert launch.run(preset.main, [given[0], f"--published={word}"]) == 2
        assert told in capsys.readouterr().err
    assert (tmp_path / "mine" / "README.md").read_text() == card


def test_bad_flags_are_told(tmp_path, capsys):
    for given, words in [(["--name=vae_digits"], "together"), (["--out=x"], "together"),
                         (["--name=vae_digits", "--out=x"], "one of the three"),
                         (["--name=nothing", f"--workdir={tmp_path / 'a'}"], "no preset"),
                         ([f"--from_workdir={tmp_path}", f"--out={tmp_path / 'b'}"], "not the work directory")]:
        assert launch.run(preset.main, given) == 2
        error = capsys.readouterr().err
        assert words in error and "Traceback" not in error and not list(tmp_path.iterdir())
    assert launch.run(preset.main, []) == 0
    assert "vae_digits" in capsys.readouterr().out


# ---- places elsewhere ------------------------------------------------------------------------------


def test_a_url_of_fsspec_is_read_and_written(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    for path in (presets.SHIPPED / "vae_digits").iterdir():
        memory.pipe_file(f"/zoo/vae/{path.name}", path.read_bytes())
    here, there = pae_zoo.from_preset("vae_digits"), pae_zoo.from_preset("memory://zoo/vae")
    x = np.ones((2, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(there.elbo(x, (0, 1)), here.elbo(x, (0, 1)))
    presets.copy("memory://zoo/vae", str(tmp_path / "run"))
    assert Run(tmp_path / "run").read_metrics() == Run(presets.SHIPPED / "vae_digits").read_metrics()
    assert pae_zoo.save_to_preset(here, "memory://zoo/mine") == "memory://zoo/mine"
    np.testing.assert_array_equal(pae_zoo.from_preset("memory://zoo/mine").elbo(x, (0, 1)), here.elbo(x, (0, 1)))
    with pytest.raises(UserError, match="exists"):
        pae_zoo.save_to_preset(here, "memory://zoo/mine")
    memory.rm_file("/zoo/vae/preset.json")
    for place, words in (("memory://zoo/vae", "has no preset.json"), ("memory://zoo/none", "has no preset.json"),
                         ("nothing://zoo", "nothing"), ("hf://zoo", "hf://owner/name")):
        with pytest.raises(UserError, match=words):
            pae_zoo.from_preset(place)
    for place, words in (("memory://run", "folder of this machine"),):
        with pytest.raises(UserError, match=words):
            presets.copy("vae_digits", place)
    with pytest.raises(UserError, match="hf upload zoo/vae"):
        pae_zoo.save_to_preset(here, "hf://zoo/vae")


class Hub(http.server.BaseHTTPRequestHandler):
    """What the API of Hugging Face says of a repository with one preset in the folder `digits`."""

    commit = "0123456789abcdef0123456789abcdef01234567"

    def files(self):
        return {f"digits/{path.name}": path for path in (presets.SHIPPED / "vae_digits").iterdir()}

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def answer(self, with_body):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        kind, body, headers = "application/json", None, {}
        described = {name: {"type": "file", "path": name, "size": file.stat().st_size,
                            "oid": hashlib.sha1(file.read_bytes()).hexdigest()} for name, file in self.files().items()}
        if path in ("/api/models/zoo/vae", "/api/models/zoo/vae/revision/main",
                    f"/api/models/zoo/vae/revision/{self.commit}"):
            body = json.dumps({"id": "zoo/vae", "sha": self.commit, "private": False, "tags": [], "downloads": 0,
                               "siblings": [{"rfilename": name} for name in described]}).encode()
        elif path.startswith("/api/models/zoo/vae/tree/"):
            body = json.dumps(list(described.values())).encode()
        elif "/resolve/" in path and path.startswith("/zoo/vae/"):
            name = path.partition("/resolve/")[2].partition("/")[2]
            if name in described:
                kind, body = "application/octet-stream", self.files()[name].read_bytes()
                headers = {"ETag": f'"{described[name]["oid"]}"', "X-Repo-Commit": self.commit}
        if body is None:
            self.send_response(404)
            body = b"{}"
            headers = {"X-Error-Code": "RepoNotFound" if "/zoo/vae" not in path else "EntryNotFound"}
        else:
            self.send_response(200)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_repository_of_hugging_face_is_read(hub, tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    names = (presets.FACTS, presets.MODEL)
    found = preset_places.from_hub("hf://zoo/vae/digits", names, hub)
    assert {path.name for path in found.iterdir()} == set(names)
    assert isinstance(pae_zoo.from_preset(str(found)), pae_zoo.VAE)
    assert preset_places.from_hub(f"hf://zoo/vae@{Hub.commit}/digits", names, hub) == found  # of the cache
    with pytest.raises(UserError, match="zoo/none cannot be reached, read or written: .*NotFound"):
        preset_places.from_hub("hf://zoo/none", names, hub)
