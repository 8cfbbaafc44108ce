"""Miani and others, Laplacian Autoencoders, NeurIPS 2022, arXiv 2206.15078: the stored results of their code."""

from reproductions._items import Item, Row, Run

PAPER = "Miani and others, NeurIPS 2022, arXiv 2206.15078; stored results of their code, one run each"
OTHER = ("kmnist", "fashion_mnist")
OOD = "--tasks=ood --ood_datasets={ood}"
DIFFERS = "KMNIST could not be had where the twins were run: theirs is Fashion-MNIST, an easier set for an error"


def _online(*evaluations: str) -> Run:
    return Run("lae", "published/lae/mnist", "lae/mnist_mc_cpu", evaluations)


def _vae(*evaluations: str) -> Run:
    return Run("vae", "published/vae/mnist_lae", "published/vae/mnist_lae_cpu", evaluations)


def _posthoc(*evaluations: str) -> Run:
    return Run("lae_posthoc", "", "lae_posthoc/mnist_kron_cpu", evaluations)


def _scores() -> tuple[Row, ...]:
    lae = {"latent": "0.999", "output": "0.999", "likelihood": "0.991", "typicality": "0.988"}
    vae = {"latent": "0.566", "output": "0.921", "likelihood": "0.744", "typicality": "0.609"}
    rows = [Row(f"AUROC, {model}, {score}", value, model,
                "" if model == "vae" and score != "likelihood" else f"ood/{{ood}}/{score}/auroc")
            for model, scores in (("lae", lae), ("vae", vae)) for score, value in scores.items()]
    return (*rows, Row("AUROC, lae_posthoc with all defaults, spread", "", "lae_posthoc", "ood/{ood}/spread/auroc"),
            Row("AUROC, its likelihood alone", "", "lae_posthoc", "ood/{ood}/likelihood/auroc"))


def _imputation(mask: str, name: str, published: dict[str, tuple[str, str]]) -> tuple[Row, ...]:
    return tuple(Row(f"{name}: {words}, {model}", value, model, f"imputation/{mask}/reconstructed/{key}")
                 for model, values in published.items()
                 for value, (key, words) in zip(values, (("accuracy", "accuracy"), ("ece", "ECE"))))


ITEMS = (
    Item("lae-ood", "Finding other data, MNIST, K = 2", PAPER, (_online(OOD), _vae(OOD), _posthoc(OOD)), _scores(),
         ("lae: figures/ood_{ood}",), other=OTHER,
         differs=f"{DIFFERS}. Drawn networks of lae find it by their codes better than by the error, as in the paper, "
                 "and less surely; a vae's likelihood, which has a variance for each pixel, and the default score of "
                 "lae_posthoc find all of it."),
    Item("lae-calibration", "Error against uncertainty, MNIST, K = 2", PAPER,
         (_online("--tasks=calibration"), _posthoc("--tasks=calibration")), (
             Row("SSE of the mean reconstruction, lae", "28.4", "lae", "calibration/sse", 1),
             Row("SSE of the most uncertain tenth over all, by outputs, lae", "1.66", "lae",
                 "calibration/output/top_decile_ratio", 2),
             Row("... by codes, lae", "1.51", "lae", "calibration/latent/top_decile_ratio", 2),
             Row("... by outputs, lae_posthoc", "", "lae_posthoc", "calibration/output/top_decile_ratio", 2),
             Row("... by codes, lae_posthoc", "", "lae_posthoc", "calibration/latent/top_decile_ratio", 2),
             Row("rank correlation of std of codes and error, lae", "", "lae", "calibration/latent/spearman", 2),
             Row("... lae_posthoc", "", "lae_posthoc", "calibration/latent/spearman", 2),
         ), ("lae: figures/calibration_errors", "lae_posthoc: figures/calibration_errors"),
         differs="Ten epochs, one probe for the curvature and the official test images, for training to the end, exact "
                 "curvature and held-out training images."),
    Item("lae-imputation", "Digits of which the upper half is noise, MNIST, K = 2", PAPER, (
        _online("--tasks=imputation"), _vae("--tasks=imputation")), (
            *_imputation("full", "nothing hidden", {"lae": ("0.821", "0.051"), "vae": ("0.576", "0.138")}),
            *_imputation("half", "upper half", {"lae": ("0.517", "0.127"), "vae": ("0.317", "0.185")})),
         ("lae: figures/imputation_half", "vae: figures/imputation_half"),
         differs="Their classifier has other weights, and their errors are of held-out training images; the order of "
                 "the models is what compares."),
)  # fmt: skip
