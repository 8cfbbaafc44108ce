"""Pictures of what restorations say of the latents: joint densities, ends of the search, chains."""

from typing import Optional

import numpy as np

from pae_zoo.core import seeds
from pae_zoo.evaluation.context import Context
from pae_zoo.evaluation.support.restored import Restoration
from pae_zoo.evaluation.support.restoring import Restorer
from pae_zoo.plotting import restoration as plotting

SHOWN = 4
PRIOR_DRAWS = 2000


def save(context: Context, found: Restoration, restorer: Restorer, given: Optional[np.ndarray],
         chosen: np.ndarray) -> None:
    """Saves the figures restoration_latents, restoration_modes and, of NUTS, restoration_chains, of up to four data.

    given: what was given of them as images (n, H, W, C), None for vectors. chosen: their numbers in the test split.
    """
    posteriors, chains = [], []
    for index in range(len(chosen)):
        one = {name: getattr(found, name)[index] for name in ("draws_u", "u", "weights", "stds", "log_joint_of_runs")}
        if len(posteriors) == SHOWN or not all(np.isfinite(values).all() for values in one.values()):
            continue
        picture = None if given is None else given[index]
        posteriors.append(plotting.Posterior(one["draws_u"], one["u"], one["weights"], one["stds"],
                                             -one["log_joint_of_runs"], picture, f"test {chosen[index]}"))
        if found.r_hat is not None:
            num = restorer.options.restoration_chains
            chains.append(one["draws_u"].reshape(-1, num, one["draws_u"].shape[-1]))
    if not posteriors:
        return
    name = context.dataset.name
    if posteriors[0].draws.shape[1] > 1:
        prior = restorer.prior.sample(PRIOR_DRAWS, seed=seeds.stream(restorer.seed, "restoration/shown")).numpy()
        context.figure("restoration_latents", plotting.joints(posteriors, prior, f"{name}: two latents given the seen"))
    context.figure("restoration_modes", plotting.ends(posteriors, f"{name}: where the search ended"))
    if chains:
        names = [one.name for one in posteriors]
        context.figure("restoration_chains", plotting.chains(chains, names, f"{name}: chains of NUTS"))
