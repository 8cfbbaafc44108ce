"""Runs of a sweep as tasks of Ray: its scheduler gives each the cores and GPUs that it asks for."""

from collections.abc import Iterator, Sequence
from typing import Any

from pae_zoo.core.errors import UserError
from pae_zoo.experiment.sweep_plans import Plan, run_alone


def connect(address: str, cpus: float, gpus: float) -> Any:
    """Returns the module ray, connected to a cluster, or to Ray on this machine where `address` is "".

    Raises UserError without the package, where no cluster answers, and for one that cannot give a run its cores.
    """
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError("--engine=ray needs the package ray: pip install 'pae_zoo[ray]'.") from error
    place = {"address": address} if address else {"include_dashboard": False}
    try:
        ray.init(ignore_reinit_error=True, log_to_driver=False, logging_level="error", **place)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f"--ray_address={address}: no cluster answers there: {error}") from error
    there = ray.cluster_resources()
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        found = there.get(name, 0.0)
        if wanted > found:
            raise UserError(f"--{name.lower()}s={wanted:g}: the cluster has {found:g}; ask for less.")
    return ray


class RayPool:
    """A Ray cluster, or Ray on this machine where `address` is "".

    All machines must see the folder of the sweep. Raises UserError without the package, and where no cluster answers.
    """

    def __init__(self, address: str = "", cpus: float = 1.0, gpus: float = 0.0) -> None:
        self.ray = connect(address, cpus, gpus)
        self.signum, self.cpus, self.gpus = 0, cpus, gpus

    def results(self, plans: Sequence[Plan]) -> Iterator[tuple[Plan, str]]:
        """Yields (plan, "" or why it failed) as the runs end."""
        task = self.ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_retries=0)(run_alone)
        waiting = {task.remote(list(plan.flags), plan.workdir, plan.log): plan for plan in plans}
        while waiting:
            (done,), _ = self.ray.wait(list(waiting), num_returns=1)
            plan = waiting.pop(done)
            try:
                yield plan, self.ray.get(done)
            except self.ray.exceptions.RayError as error:
                yield plan, f"Ray: {str(error).splitlines()[-1]}"
