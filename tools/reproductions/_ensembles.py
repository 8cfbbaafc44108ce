"""Syrota, Moreno-Munoz & Hauberg, Decoder ensembling for learned latent geometries, arXiv 2408.07507."""

from reproductions._items import Item, Row, Run

PAPER = "Syrota, Moreno-Munoz & Hauberg, 2024, arXiv 2408.07507"
STABILITY = ("--tasks=distance_stability --geodesic_points=33 --geodesic_init=line --stability_published=1024 "
             "--stability_unconverged=keep --stability_dir={out}")  # fmt: skip
PUBLISHED = "tests.csv: first=ensemble_vae: as published, second=rbf_vae: as published: t"


def _pair(data: str, evaluations: tuple[str, ...] = (), retrainings: tuple[int, int] = (1, 1)) -> tuple[Run, ...]:
    baseline = f"published/rbf_vae/{data}"
    return (Run("ensemble_vae", f"published/ensemble_vae/{data}", f"ensemble_vae/{data}_cpu", evaluations, retrainings),
            Run("rbf_vae", baseline, f"{baseline}_cpu", evaluations, retrainings))


def _table(name: str, data: str, words: str, t: str) -> Item:
    column = "columns.csv: distance={}: cv"
    return Item(
        name, f"Do retrained models agree on distances? {words}", f"{PAPER}, Table 1 (30 retrainings, 100 pairs) and "
        "Fig. 5", _pair(data, retrainings=(30, 10)), (
            Row("t of the published lengths, ensemble below the baseline", t, "", PUBLISHED, 2),
            Row("CV, ensemble, as published", "", "", column.format("ensemble_vae: as published")),
            Row("CV, baseline, as published", "", "", column.format("rbf_vae: as published")),
            Row("CV, ensemble, under the expected metric", "", "", column.format("ensemble_vae: coupled")),
            Row("CV, ensemble, Euclidean between codes", "", "", column.format("ensemble_vae: Euclidean")),
        ), compare=STABILITY,
        differs="Smaller networks, ten retrainings and 50 pairs for 30 and 100. A low CV is no good distance by "
                "itself: the published length hardly depends on the pair.")  # fmt: skip


MAP = ("--tasks=geodesics,latent_grid --geodesic_pairs=8",)
ITEMS = (
    Item("ensembles-fig1", "Geodesics on a Gaussian process that follows a noisy circle", f"{PAPER}, Fig. 1",
         (Run("gp_circle", "gp_circle/circle", "gp_circle/circle_cpu", ("--tasks=geodesics --geodesic_pairs=8",)),), (
             Row("share of geodesics that converged", "", "gp_circle", "geodesics/converged", 2),
             Row("std of the decoder along geodesics", "", "gp_circle", "geodesics/uncertainty"),
             Row("... along straight lines", "", "gp_circle", "geodesics/straight_uncertainty"),
             Row("length of geodesics", "", "gp_circle", "geodesics/length/rms", 2),
             Row("... of straight lines", "", "gp_circle", "geodesics/straight/rms", 2),
         ), ("gp_circle: figures/geodesics",),
         differs="Only a picture was published, and its scales are unknown; ours goes round the hole as theirs does."),
    Item("ensembles-fig3", "Uncertainty over the latent space, MNIST's 0, 5 and 7, K = 2", f"{PAPER}, Figs 2 and 3",
         _pair("mnist_3class", MAP), (
             Row("least std of the ensemble over the map", "0.01", "ensemble_vae", "latent_grid/std_min", 2),
             Row("largest", "0.25", "ensemble_vae", "latent_grid/std_max", 2),
             Row("std of the ensemble along geodesics", "", "ensemble_vae", "geodesics/uncertainty"),
             Row("... along straight lines", "", "ensemble_vae", "geodesics/straight_uncertainty"),
             Row("std of the baseline along geodesics", "0.65 to 3.16 over the map", "rbf_vae",
                 "geodesics/uncertainty"),
         ), ("ensemble_vae: figures/geodesics", "rbf_vae: figures/geodesics"),
         differs="Five decoders of 128-64 units for ten of 512 to 64."),
    _table("ensembles-table1", "mnist_3class", "MNIST's 0, 5 and 7, K = 2", "-16.83"),
    _table("ensembles-fig5", "mnist", "MNIST, ten classes, K = 2", "-16.29"),
    _table("ensembles-fig5-fashion", "fashion_mnist", "Fashion-MNIST, K = 2", "-15.34"),
    _table("ensembles-50d", "mnist_50d", "MNIST, K = 50", "-6.47"),
)  # fmt: skip
