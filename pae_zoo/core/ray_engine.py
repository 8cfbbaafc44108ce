"""Ray, where it is installed: a cluster, or this machine."""

from typing import Any

from pae_zoo.core.errors import UserError


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
    except Exception as error:  # a machine that is too busy to start it raises nothing more special
        words = " ".join(str(error).split())
        raise UserError(f"--ray_address={address}: no cluster answers there, or none could be started: {words}"
                        ) from error
    there = ray.cluster_resources()
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        found = there.get(name, 0.0)
        if wanted > found:
            raise UserError(f"--{name.lower()}s={wanted:g}: the cluster has {found:g}; ask for less.")
    return ray
