"""Park, Kim & Kim, Variational Laplace Autoencoders, ICML 2019, arXiv 2211.17267."""

import json
from pathlib import Path

from reproductions._items import Item, Row, Run

PAPER = "Park, Kim & Kim, ICML 2019, arXiv 2211.17267"
MODELS = {"vae": "-408.5", "savae": "-409.4", "hf": "-411.1", "iaf": "-402.7", "vlae": "-381.2"}
#: read off the chart: the values of one to four steps or flows
BERNOULLI = {"vae": "-85.37", "savae": "-85.10 to -85.42", "hf": "-85.22 to -85.41", "iaf": "-83.80 to -84.25",
             "vlae": "-83.60 to -83.84"}  # fmt: skip
LIKELIHOOD = "--tasks=likelihood --importance_samples=100"


def _runs(data: str, evaluations: tuple[str, ...]) -> tuple[Run, ...]:
    small = {("vae", "mnist_bernoulli"): "mnist_bernoulli_small"}
    runs = [Run(model, f"published/{model}/{data}", f"{model}/{small.get((model, data), data)}_cpu", evaluations)
            for model in MODELS]
    published = Run("vlae, the published search", "", f"vlae/{data}_published_cpu", evaluations)
    return (*runs, published)


def learning_curves(folders: dict[str, list[Path]], out: Path) -> Path:
    """Draws the validation bound of every model against steps, and returns the path of the picture."""
    from pae_zoo.plotting import figures

    figure = figures.new_figure(6.0, 4.0)
    axes = figure.subplots()
    for name, runs in folders.items():
        lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        lines = [line for line in lines if "valid/elbo" in line]
        axes.plot([line["step"] for line in lines], [line["valid/elbo"] for line in lines], label=name)
    axes.set(xlabel="training steps", ylabel="ELBO of validation data, nats", title="Learning curves, MNIST, logit")
    axes.legend()
    path = out / "learning_curves.png"
    figure.savefig(path, dpi=figures.DPI)
    return path


ITEMS = (
    Item("vlae-curves", "Learning curves, MNIST after the logit transform",
         f"{PAPER}; the curves of its code's page at epoch 2,000, densities after the transform, read to 1 nat",
         _runs("mnist", ()), tuple(
             Row(f"loss of validation data at the end, {name}", value, name, "valid/loss", 1)
             for name, value in zip((*MODELS, "vlae, the published search"),
                                    ("432.5", "433", "436", "425", "393.5", "393.5"))),
         draw=learning_curves,
         differs="Ten epochs of H = 128, K = 16 for 2,000 of H = 500, K = 50, so that losses do not compare and their "
                 "order does: it is that of the paper, hf, vae and savae, iaf, vlae."),
    Item("vlae-likelihood", "log p(x) of five posteriors, MNIST after the logit transform",
         f"{PAPER}; the table of its code's page: 5,000 samples, the best epoch chosen on test data",
         _runs("mnist", (LIKELIHOOD,)), tuple(
             Row(f"log p(x), {name}", value, name, "test/log_likelihood_model_space", 1)
             for name, value in (*MODELS.items(), ("vlae, the published search", "-381.2"))),
         differs="Ten epochs of H = 128, K = 16 for 2,000 of H = 500, K = 50, and 100 samples for 5,000. The order "
                 "compares: it is that of the paper."),
    Item("vlae-bernoulli", "log p(x) of five posteriors, binarised MNIST", f"{PAPER}, read off the authors' chart",
         _runs("mnist_bernoulli", (LIKELIHOOD,)), tuple(
             Row(f"log p(x), {name}", value, name, "test/log_likelihood", 1)
             for name, value in (*BERNOULLI.items(), ("vlae, the published search", BERNOULLI["vlae"]))),
         differs="Ten epochs for 2,000, and digits are binarised anew each time."),
)  # fmt: skip
