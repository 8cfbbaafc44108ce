"""Requests under load: how many a second, how long they take, and what memory the server has."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Stage(NamedTuple):
    """What so many requests of one kind took: latencies in milliseconds, memory in MiB (None: unknown)."""

    client: str
    rows: int
    requests: int
    clients: int
    per_second: float
    p50: float
    p99: float
    memory_before: float | None
    memory_after: float | None


def memory(pid: int | None) -> float | None:
    """Returns the resident memory of a process of this machine in MiB, None where it is not known."""
    path = Path(f"/proc/{pid}/status")
    if pid is None or not path.exists():
        return None
    line = next(line for line in path.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024


def run(connect: Callable[[], Any], signature: str, inputs: dict[str, np.ndarray], requests: int, clients: int,
        pid: int | None) -> Stage:
    """Returns what `requests` equal requests took that `clients` threads sent, each the next when one is answered.

    An answer that differs from the first one is an error.
    """
    before = memory(pid)
    counts = [requests // clients + (number < requests % clients) for number in range(clients)]
    times, errors, ready = [np.zeros(count) for count in counts], [], threading.Barrier(clients + 1)

    def work(number):
        client = connect()
        try:
            request = client.request(signature, inputs)
            first = client.ask(request)
            ready.wait()
            for place in range(counts[number]):
                begin = time.perf_counter()
                answer = client.ask(request)
                times[number][place] = time.perf_counter() - begin
                if answer != first:
                    raise RuntimeError(f"the answer to request {place} is not that to the first")
        except Exception as error:
            errors.append(error)
            ready.abort()
        finally:
            client.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        ready.wait()
    except threading.BrokenBarrierError:
        pass
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - begin
    for error in errors:
        if not isinstance(error, threading.BrokenBarrierError):
            raise error
    p50, p99 = 1e3 * np.percentile(np.concatenate(times), [50, 99])
    rows = len(next(iter(inputs.values())))
    return Stage("", rows, requests, clients, requests / seconds, float(p50), float(p99), before, memory(pid))
