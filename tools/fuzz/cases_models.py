"""Cases: hostile model files."""

import base64
import io
import json
import marshal
import pickle
import zipfile

import numpy as np
from kit import Canary, add, apply, evaluate, export, picture_folder, run_of, tiny, write, zero_zip, zipped


def table():
    hostile_models()


def hostile_models():
    def case(name, change, **how):
        how.setdefault("says", ("model.keras",))
        how.setdefault("expect", "told")
        for use in ("evaluate", "apply", "export", "init"):

            def make(d, use=use):
                run = run_of("vae", d)
                change(d, run / "model.keras")
                env = {"PYTHONPATH": str(d)}
                if use == "evaluate":
                    return evaluate(d, f"--workdir={run}", "--tasks=reconstruction", env=env)
                if use == "apply":
                    return apply(
                        d, f"--workdir={run}", f"--input=folder:{picture_folder(d / 'pics', 5)}", f"--out={d}/o.npz"
                    )
                if use == "export":
                    return export(d, f"--workdir={run}", f"--export_dir={d}/e")
                return tiny(d, f"--init_workdir={run}", f"--workdir={d}/new", model="vae")

            if use in ("evaluate", "init") or name.startswith(("lambda", "module", "class")):
                add("keras", f"{name}-{use}", make, seconds=60, **how)

    def config(change):
        """Changes config.json inside the archive."""

        def make(d, path):
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            found = json.loads(members["config.json"])
            made = change(d, found)
            members["config.json"] = (
                made if isinstance(made, bytes) else json.dumps(found if made is None else made).encode()
            )
            zipped(path, members)

        return make

    def lambda_layer(d):
        function = eval(f"lambda x: open({str(d / 'CANARY')!r}, 'w').write('ran')")
        dump = base64.b64encode(marshal.dumps(function.__code__)).decode()
        return {
            "module": "keras.layers",
            "class_name": "Lambda",
            "registered_name": None,
            "config": {
                "name": "evil",
                "trainable": True,
                "dtype": "float32",
                "function": {"class_name": "__lambda__", "config": {"code": dump, "defaults": None, "closure": None}},
            },
        }

    def layer(module, name, inner=None, registered=None):
        return {
            "module": module,
            "class_name": name,
            "config": {} if inner is None else inner,
            "registered_name": registered,
        }

    case("lambda-for-the-model", config(lambda d, found: lambda_layer(d)))
    case("lambda-for-the-encoder", config(lambda d, found: found["config"].update(encoder=lambda_layer(d))))
    case(
        "lambda-among-the-layers",
        config(lambda d, found: found["config"]["encoder"]["config"]["layers"].append(lambda_layer(d))),
    )
    case("lambda-for-a-part-unknown", config(lambda d, found: found["config"].update(extra=lambda_layer(d))))

    def evil_module(d, found):
        write(
            d / "evil_module_7.py",
            f"open({str(d / 'CANARY')!r}, 'w').write('ran')\nclass Evil:\n    @classmethod\n    "
            "def from_config(cls, config):\n        return cls()\n",
        )
        return layer("evil_module_7", "Evil", {}, "Evil")

    case("module-beside-the-command", config(evil_module))
    case("module-for-the-encoder", config(lambda d, found: found["config"].update(encoder=evil_module(d, found))))
    case("class-os-system", config(lambda d, found: layer("os", "system", {"command": f"touch {d}/CANARY"})))
    case(
        "class-subprocess",
        config(
            lambda d, found: found["config"].update(
                encoder=layer("subprocess", "Popen", {"args": ["touch", str(d / "CANARY")]})
            )
        ),
    )
    case(
        "class-builtins-eval",
        config(
            lambda d, found: found["config"].update(
                encoder=layer("builtins", "eval", {"source": f"open({str(d / 'CANARY')!r}, 'w')"})
            )
        ),
    )
    case(
        "class-function-of-keras",
        config(lambda d, found: layer("keras.utils", "get_file", {"fname": "x", "origin": "file:///etc/passwd"})),
    )
    case("class-unknown", config(lambda d, found: layer("pae_zoo.models.vae", "VAE2030", {}, "pae_zoo>VAE2030")))
    case(
        "class-unknown-part",
        config(
            lambda d, found: found["config"].update(
                likelihood=layer("pae_zoo.likelihoods", "Laplace2030", {}, "pae_zoo>Laplace2030")
            )
        ),
    )
    case("class-a-dense-layer", config(lambda d, found: layer("keras.layers", "Dense", {"units": 3})))
    case(
        "class-a-dense-network",
        config(
            lambda d, found: {
                "module": "keras",
                "class_name": "Sequential",
                "config": {"name": "s", "layers": []},
                "registered_name": None,
            }
        ),
    )
    case("json-list", config(lambda d, found: b"[]"))
    case("json-null", config(lambda d, found: b"null"))
    case("json-nested", config(lambda d, found: b"[" * 100_000))
    case("json-not-utf-8", config(lambda d, found: b"\xff\xfe{"))
    case("without-config", config(lambda d, found: found.pop("config") and None))
    case("config-of-nothing", config(lambda d, found: found.update(config={})))
    case("units-1e12", config(lambda d, found: set_units(found, 10**12)))
    case("units-minus", config(lambda d, found: set_units(found, -3)))
    case("units-other", config(lambda d, found: set_units(found, 9)))

    def members(change):
        def make(d, path):
            with zipfile.ZipFile(path) as archive:
                found = {name: archive.read(name) for name in archive.namelist()}
            change(found)
            zipped(path, found)

        return make

    case("without-weights", members(lambda found: found.pop("model.weights.h5")))
    case("weights-empty", members(lambda found: found.update({"model.weights.h5": b""})))
    case(
        "weights-half",
        members(
            lambda found: found.update(
                {"model.weights.h5": found["model.weights.h5"][: len(found["model.weights.h5"]) // 2]}
            )
        ),
    )
    case(
        "weights-random",
        members(lambda found: found.update({"model.weights.h5": np.random.default_rng(0).bytes(9000)})),
    )
    case(
        "weights-npz-pickled",
        members(lambda found: (found.pop("model.weights.h5"), found.update({"model.weights.npz": pickled()}))),
    )
    case("without-metadata", members(lambda found: found.pop("metadata.json")), expect="clean", says=())
    case("a-pickle", lambda d, path: write(path, pickle.dumps(Canary(d / "CANARY"))))
    case("bomb-in-the-archive", lambda d, path: zero_zip(path, "config.json", b"{", 3584 << 20))


def pickled() -> bytes:
    out = io.BytesIO()
    np.savez(out, __root__=np.array([{"a": 1}], object))
    return out.getvalue()


def set_units(found, value):
    for one in found["config"]["encoder"]["config"]["layers"]:
        if "units" in one.get("config", {}):
            one["config"]["units"] = value
            return
