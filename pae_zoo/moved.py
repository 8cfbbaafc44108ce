"""Modules under the names that they had before: `import pae_zoo.launch` gives `pae_zoo.experiment.launch` itself.

Only names that are asked for are looked up, so that importing the package costs nothing for them.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Optional

# (package of before, package of now): modules, as "old:new" where the name has changed too
_MOVED = {
    ("", "core"): "errors seeds distributions hparams trainable values inputs sizes fit_data reading atomic:files",
    ("", "experiment"): "launch session training:fitting checkpoint run:workdir saved flagfiles",
    ("", "applying"): "user_data:inputs results",
    ("", "plotting"): "plotting_uncertainty:uncertainty plotting_geometry:geometry",
    ("models", "models.parts"): "builder posteriors importance mixtures weights flow_latent geometry_decoders "
                                "rbf_precision",
    ("evaluation", "evaluation.tasks"): "amortisation calibration clustering curvature density distance_stability "
                                        "downstream generation geodesics imputation latent_grid likelihood ood "
                                        "reconstruction rejection restoration",
    ("evaluation", "evaluation.support"): "restoring imputing local_posteriors predictions quality latent_geometry "
                                          "latent_use stability_report stability_tables",
    ("evaluation", "evaluation.metrics"): "calibration_metrics:calibration detection neighbours frechet "
                                          "baselines:density_baselines stability_statistics:agreement",
    ("evaluation", "evaluation.features"): "inception",
    ("curvature", "curvature.network"): "graph layout matrix_form pieces",
    ("curvature", "curvature.rules"): "rules_elementwise:elementwise rules_linear:linear "
                                      "rules_shape:shape propagation_rules:propagation",
    ("curvature", "curvature.matrices"): "gauss_newton hessians record sweeps dense_exact dense_exact_plan propagation "
                                        "kron low_rank last_layer",
    ("curvature", "curvature.posteriors"): "posterior:build posterior_base:base posterior_dense:dense "
                                           "posterior_kron:kron posterior_low_rank:low_rank evidence",
    ("curvature", "curvature.predictive"): "linearised variance_propagation monte_carlo",
    ("data", "data"): "geometry:framing",
}  # fmt: skip


def moved() -> dict[str, str]:
    """Returns {full name of before: full name of now}."""
    found = {}
    for (before, now), names in _MOVED.items():
        for name in names.split():
            old, _, new = name.partition(":")
            found[".".join(filter(None, ("pae_zoo", before, old)))] = f"pae_zoo.{now}.{new or old}"
    return found


class _Finder(MetaPathFinder, Loader):
    def __init__(self) -> None:
        self._names = moved()

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        return ModuleSpec(fullname, self) if fullname in self._names else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._names[spec.name])
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        # The machinery of imports has just given the module the spec of its old name.
        module.__spec__ = self._spec


def install() -> None:
    """Makes the names of before importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
