"""Starts a command as so many processes of one cluster on this machine: tools/local_cluster.py N -- COMMAND.

Each process finds its place in TF_CONFIG, on ports that are free. Lines of the first process are passed on as they are,
those of the others with their number before them. When one process fails the others have a while to notice, and then
are ended. The exit status is that of the first process to fail, 0 where none does.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

USAGE = "tools/local_cluster.py N -- COMMAND, with N processes, 1 or more"
# Seconds that the others have to end by themselves after one has failed.
PATIENCE = 60.0


def free_ports(count: int) -> list[int]:
    """Returns ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def start(number: int, ports: Sequence[int], command: Sequence[str]) -> subprocess.Popen:
    """Starts process `number` of the cluster."""
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": number}})
    return subprocess.Popen(command, env={**os.environ, "TF_CONFIG": config}, text=True, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT)


def pass_on(number: int, process: subprocess.Popen) -> None:
    """Prints the lines of a process as they come."""
    for line in process.stdout or ():
        print(f"[{number}] {line}" if number else line, end="", flush=True)


def run(count: int, command: Sequence[str]) -> int:
    """Runs the command in `count` processes and returns the exit status of the first to fail."""
    processes = [start(number, ports, command) for ports in [free_ports(count)] for number in range(count)]
    readers = [threading.Thread(target=pass_on, args=pair) for pair in enumerate(processes)]
    for reader in readers:
        reader.start()
    failed, since = 0, None
    try:
        while any(process.poll() is None for process in processes):
            bad = [process.returncode for process in processes if process.returncode]
            if bad and since is None:
                failed, since = bad[0], time.monotonic()
            if since is not None and time.monotonic() - since > PATIENCE:
                break
            time.sleep(0.1)
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for reader in readers:
            reader.join()
    return failed or next((one.returncode for one in processes if one.returncode), 0)


def main(argv: Sequence[str]) -> int:
    if len(argv) < 3 or argv[1] != "--" or not argv[0].isdecimal() or int(argv[0]) < 1:
        print(f"error: received {' '.join(argv) or 'nothing'}. Usage: {USAGE}.", file=sys.stderr)
        return 2
    status = run(int(argv[0]), argv[2:])
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
