"""What `benchmark.py flow` times of mixtures: EM beside scikit-learn's, and fits from import to their end.

Every function runs in a process of its own. Rows lie in 60 clusters of different sizes, shapes and tails.
"""

import numpy as np

from benchmarks._rounds import Baton

DIMS, CLUSTERS = 32, 60
OURS, PEER = "ours, EM", "scikit-learn, EM"


def data(num_rows: int) -> np.ndarray:
    """Returns clustered rows, (num_rows, DIMS), float64, about of mean 0 and variance 1."""
    generator = np.random.default_rng(0)
    roots = generator.normal(size=(CLUSTERS, DIMS, DIMS)) / np.sqrt(DIMS)
    roots *= generator.uniform(0.2, 0.8, (CLUSTERS, 1, 1))
    which = generator.choice(CLUSTERS, num_rows, p=generator.dirichlet(np.full(CLUSTERS, 5.0)))
    noise = generator.standard_t(generator.uniform(4.0, 30.0, CLUSTERS)[which][:, None], (num_rows, DIMS))
    centres = generator.normal(size=(CLUSTERS, DIMS))
    return centres[which] + np.einsum("nij,nj->ni", roots[which], noise)


def start(x: np.ndarray, components: int):
    """Returns the Gaussians that both libraries start from, `Parameters`."""
    from pae_zoo.densities import em

    return em.start(em.Data(x), components, student=False, seed=0)


def ours(baton: Baton, num_rows: int, components: int, passes: int) -> None:
    """Passes of EM, then the mean log likelihood."""
    from pae_zoo.densities import em

    x = em.Data(data(num_rows))
    begin = start(x.x, components)
    while True:
        baton.start()
        found = begin
        for _ in range(passes):
            found, _ = em.step(found, x)
        value = em.log_likelihood(found, x)
        baton.stop(1, log_likelihood=value)


def scikit_learn(baton: Baton, num_rows: int, components: int, passes: int) -> None:
    """The same passes, whose `fit` ends with the responsibilities; the mean log likelihood is not timed."""
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    from pae_zoo.densities import em

    x = data(num_rows)
    begin = start(x, components)
    while True:
        mixture = GaussianMixture(
            components, weights_init=np.exp(begin.log_weights), means_init=begin.means,
            precisions_init=np.linalg.inv(begin.scales), reg_covar=em.RIDGE, tol=0.0, max_iter=passes, random_state=0,
        )  # fmt: skip
        baton.start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            mixture.fit(x)
        wall, cpu = baton.lap()
        value = float(mixture.score(x))
        after = baton.lap()
        baton.stop(1, less=(after[0] - wall, after[1] - cpu), log_likelihood=value)


def fit(baton: Baton, num_rows: int, density: str, components: int = 0) -> None:
    """One fit of `pae_zoo.densities` with a tenth of the rows held out; the clocks run from before the import on."""
    x = data(num_rows).astype(np.float32)
    baton.start()
    from pae_zoo import densities

    options = {"components": components} if components else {}
    found = densities.fit(x[num_rows // 10 :], density, held_out=x[: num_rows // 10], **options)
    value = float(np.mean(found.log_prob(x[: num_rows // 10])))
    baton.stop(1, log_likelihood=value, components=found.base.fitted_components)
