"""Runs of a sweep as tasks of Ray: its scheduler gives each the cores and GPUs that it asks for."""

from collections.abc import Iterator, Sequence

from pae_zoo.core.ray_engine import connect
from pae_zoo.experiment.sweep_plans import Plan, run_alone


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
