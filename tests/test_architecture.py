"""Arrows between rooms point one way: launchers -> evaluation, models -> networks, likelihoods -> data."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "pae_zoo"
# room -> rooms of the package that it may import
ALLOWED = {
    "errors": set(),
    "seeds": {"errors"},
    "forward_mode": set(),
    "report": set(),
    "values": {"errors"},
    "reading": {"errors"},
    "atomic": {"errors"},
    "plotting": {"errors"},
    "plotting_uncertainty": {"plotting"},
    "distributions": {"seeds"},
    "hparams": {"errors"},
    "data": {"errors", "seeds", "reading", "values"},
    "networks": {"errors", "seeds", "reading"},
    "inputs": {"errors"},
    "likelihoods": {"errors", "inputs", "distributions"},
    "fit_data": {"errors", "inputs", "values"},
    "trainable": {"errors", "seeds", "fit_data"},
    "flows": {"errors", "inputs", "seeds", "values", "distributions", "trainable"},
    "inference": {"errors", "forward_mode", "seeds"},
    "laplace": {"errors", "forward_mode", "networks", "inference"},
    "curvature": {"errors", "forward_mode", "seeds", "atomic", "reading", "likelihoods", "networks"},
    "geometry": {"errors", "forward_mode", "seeds"},
    "models": {"errors", "inputs", "fit_data", "seeds", "hparams", "reading", "data", "networks", "likelihoods",
               "distributions", "trainable", "flows", "inference", "laplace", "curvature", "geometry"},
    "evaluation": {"errors", "seeds", "atomic", "reading", "data", "plotting", "plotting_uncertainty",
                   "plotting_geometry", "inference", "curvature", "geometry"},
    "plotting_geometry": {"plotting", "plotting_uncertainty"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pae_zoo":
            parts = node.module.split(".")
            yield from ([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pae_zoo."))


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_rooms_below_it(room):
    files = [PACKAGE / f"{room}.py"] if (PACKAGE / f"{room}.py").exists() else sorted((PACKAGE / room).rglob("*.py"))
    assert files
    for path in files:
        found = set(imports(path)) - {room}
        assert found <= ALLOWED[room], f"{path.relative_to(PACKAGE)} imports {sorted(found - ALLOWED[room])}"


def test_launchers_are_short():
    for name in ("main", "evaluate", "apply", "export"):
        assert len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) <= 100


def test_no_source_file_is_longer_than_500_lines():
    long = [p.name for p in PACKAGE.rglob("*.py") if len(p.read_text(encoding="utf-8").splitlines()) > 500]
    assert not long


def test_forward_mode_stands_in_one_place():
    found = [p.name for p in PACKAGE.rglob("*.py") if "ForwardAccumulator" in p.read_text(encoding="utf-8")]
    assert found == ["forward_mode.py"]
