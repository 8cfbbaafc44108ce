"""Boehm & Seljak, Probabilistic Autoencoder, arXiv 2006.05479: which figure is what by the index of their code."""

from reproductions._items import Item, Row, Run

PAPER = "Boehm & Seljak, TMLR 2022, arXiv 2006.05479"
GENERATION = "--tasks=generation"
FASHION = Run("pae", "published/pae/fashion_mnist", "pae/fashion_mnist_cpu", (GENERATION,))
BETA = Run("beta-VAE", "published/vae/fashion_mnist_beta", "vae/fashion_mnist_beta_cpu", (GENERATION,))
K64 = Run("K = 64", "published/pae/fashion_mnist_k64", "pae/fashion_mnist_k64_cpu",
          (GENERATION, "--tasks=ood --ood_datasets=mnist,omniglot,hflip,vflip"))
K128 = Run("K = 128", "published/pae/fashion_mnist_k128", "pae/fashion_mnist_k128_cpu", (GENERATION,))
SHORT = ("The twin is a dense network trained for minutes, the published one convolutional with 150,000 steps: it "
         "reconstructs better. Their distances are of Inception's features, ours of a classifier of the data, so that "
         "only ratios compare")  # fmt: skip


def _ood(score: str, *published: str) -> tuple[Row, ...]:
    names = {"mnist": "MNIST", "omniglot": "Omniglot", "hflip": "mirrored left to right", "vflip": "upside down"}
    return tuple(Row(f"{score}, AUROC against {name}", value, "K = 64", f"ood/{data}/{score}/auroc")
                 for (data, name), value in zip(names.items(), published))


ITEMS = (
    Item("pae-table1", "Errors of reconstructions and Frechet distances of samples, Fashion-MNIST, K = 32",
         f"{PAPER}; values of the notebooks that its code names for Table 1 and Fig. 2", (FASHION, BETA), (
             Row("squared error, pae", "0.00642", "pae", "test/mse", 5),
             Row("squared error, beta-VAE", "0.01288", "beta-VAE", "test/mse", 5),
             Row("Frechet distance of samples, pae", "34.9", "pae", "generation/frechet/samples", 1),
             Row("... of reconstructions", "31.5", "pae", "generation/frechet/reconstructions", 1),
             Row("... of decoded N(0, I)", "102.9", "pae", "generation/frechet/raw_prior", 1),
             Row("... of test images and training images, the floor", "2.5", "pae", "generation/frechet/floor", 2),
             Row("... of samples, beta-VAE", "56.6", "beta-VAE", "generation/frechet/samples", 1),
             Row("... of reconstructions, beta-VAE", "51.3", "beta-VAE", "generation/frechet/reconstructions", 1),
         ), differs=f"{SHORT}: samples over reconstructions."),
    Item("pae-fig2", "Samples and reconstructions of pae and a beta-VAE, Fashion-MNIST, K = 32", PAPER,
         (FASHION, BETA), (
             Row("Frechet distance of samples, pae", "34.9", "pae", "generation/frechet/samples", 1),
             Row("... beta-VAE", "56.6", "beta-VAE", "generation/frechet/samples", 1),
         ), ("pae: figures/samples", "pae: figures/reconstructions", "beta-VAE: figures/samples"),
         differs=f"{SHORT}."),
    Item("pae-fig3", "Samples of larger latent spaces, Fashion-MNIST, K = 64 and 128", PAPER, (K64, K128), (
        Row("squared error, K = 64", "0.00571", "K = 64", "test/mse", 5),
        Row("squared error, K = 128", "0.00402", "K = 128", "test/mse", 5),
        Row("Frechet distance of samples, K = 64", "", "K = 64", "generation/frechet/samples", 1),
        Row("... K = 128", "", "K = 128", "generation/frechet/samples", 1),
    ), ("K = 64: figures/samples", "K = 128: figures/samples"),
         differs=f"{SHORT}; the twin of K = 128 has 12 epochs, in which it does no better than that of 64."),
    Item("pae-table2", "Finding other data by the density of the codes, Fashion-MNIST, K = 64",
         f"{PAPER}, Table 2", (K64,), (
             *_ood("latent_density", "0.997", "0.981", "0.698", "0.891"),
             *_ood("squared_error", "0.986", "0.916", "0.689", "0.880"),
         ), differs="The density of the codes is within 0.01 of the published values or above them, the error up to "
                 "0.02 below: the twin reconstructs worse. Omniglot is a part of the set here."),
    Item("pae-fig4", "Samples of faces, CelebA, K = 64", f"{PAPER}; its distance is of a public list of results",
         (Run("pae", "published/pae/celeb_a", "published/pae/celeb_a_cpu", (GENERATION,)),), (
             Row("Frechet distance of samples", "49.2", "pae", "generation/frechet/samples", 1),
         ), ("pae: figures/samples", "pae: figures/interpolations"), needs="celeb_a (tensorflow-datasets loads it)",
         differs="Not run: the data could not be had on the machine that ran the others."),
    Item("pae-fig6", "Hidden and noisy digits restored, with posteriors, MNIST, K = 8",
         f"{PAPER}; single images were published, no means", (
             Run("pae", "published/pae/mnist_k8", "pae/mnist_k8_cpu", (
                 "--tasks=restoration --mask=columns:0-15 --restoration_label=hidden --restoration_images=100",
                 "--tasks=restoration --noise=0.5 --restoration_label=noisy --restoration_images=100")),), (
             Row("half of the columns hidden: distinct modes an image", "2 of one image", "pae",
                 "restoration/modes@hidden", 2),
             Row("... chi^2 per seen pixel, median", "", "pae", "restoration/chi2/median@hidden", 2),
             Row("... share of hidden pixels in their 90 % intervals", "", "pae", "restoration/coverage_90@hidden"),
             Row("... error behind the mask, posterior mean", "", "pae", "restoration/mse_mean/hidden@hidden", 4),
             Row("... of 20 nearest neighbours", "", "pae", "restoration/knn/mse_mean@hidden", 4),
             Row("noise of 0.5: distinct modes an image", "6 of one image", "pae", "restoration/modes@noisy", 2),
             Row("... error, posterior mean", "", "pae", "restoration/mse_mean/seen@noisy", 4),
         ), ("pae: figures/restoration@hidden", "pae: figures/restoration@noisy"),
         differs="Their search went without the flow (a fault of the notebooks), ours with the density, so that modes "
                 "do not compare one by one. Behind the mask the mean of the 20 nearest training images errs less."),
)  # fmt: skip
