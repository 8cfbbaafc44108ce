"""Holds a model server against an exported model: values, errors, state, and figures under load.

    python tools/serve_check.py --export_dir=serving/vae
    python tools/serve_check.py --export_dir=serving/vae --server=tensorflow_model_server
    python tools/serve_check.py --export_dir=serving/vae --grpc=host:8500 --rest=host:8501

The first starts tools/model_server.py on free ports, the second another program that takes the flags of
tensorflow_model_server, the third asks a server that runs already, with the highest version of the same folder. Each
signature is asked with 1, 7 and 33 rows and compared with `tf.saved_model.load` of the folder; wrong requests must be
refused; the same request must have the same answer. Then come --requests requests, nine tenths of them over gRPC, half
with 1 row and half with 32. The exit status is 1 where something does not hold. It needs
`pip install tensorflow-serving-api`.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from command import ROOT, Parser, natural, path, positive, told, use_package

LOAD_ROWS = (1, 32)
# Parts of the load: JSON takes a server in Python, and this client, many times as long.
SHARES = {"gRPC": 9, "REST": 1}
# Seconds that a server that is started here may take to load and warm up a model, that one which runs already may take
# to answer, and that one has to end.
PATIENCE, SHORT, ENDING = 600.0, 10.0, 10.0


def arguments(argv):
    parser = Parser(prog="serve_check", description=__doc__)
    parser.add_argument("--export_dir", type=path, required=True, help="the folder of the versions")
    parser.add_argument("--model_name", default="", help="by which the server knows the model (default: the folder's)")
    parser.add_argument("--grpc", default="", metavar="HOST:PORT", help="of a server that runs already")
    parser.add_argument("--rest", default="", metavar="HOST:PORT", help="of a server that runs already")
    parser.add_argument("--server", default="", help="command that starts a server (default: tools/model_server.py)")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="largest difference, relative to values over 1")
    parser.add_argument("--search_tolerance", type=float, default=1e-2, help="the same of restore and geodesic")
    parser.add_argument("--requests", type=natural, default=1000, help="under load (0: none)")
    parser.add_argument("--clients", type=positive, default=4, help="threads that ask under load")
    parser.add_argument("--load_signature", default="serving_default", help="that is asked under load")
    parser.add_argument("--pid", type=positive, default=None, help="of a server here, whose memory is watched")
    return parser.parse_args(argv)


class Started:
    """A server in a process of its own, on free ports; it ends with the block.

    Args:
      command: to which --port, --rest_api_port, --model_name and --model_base_path are added.
    """

    def __init__(self, command: list[str], name: str, base: Path):
        from local_cluster import free_ports

        ports = free_ports(2)
        self.grpc, self.rest = (f"127.0.0.1:{port}" for port in ports)
        self.command = [*command, f"--port={ports[0]}", f"--rest_api_port={ports[1]}", f"--model_name={name}",
                        f"--model_base_path={base.resolve()}"]  # fmt: skip

    def __enter__(self) -> "Started":
        self.process = subprocess.Popen(self.command, stdout=sys.stdout, stderr=sys.stderr)
        return self

    def __exit__(self, *args: Any) -> None:
        self.process.terminate()
        try:
            self.process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def ended(self) -> bool:
        """Returns whether it has ended by itself, which none should."""
        return self.process.poll() is not None


def wait(make: Any, started: Any) -> int:
    """Returns the highest version that is available, once there is one; raises UserError."""
    from model_serving.clients import Refused

    from pae_zoo.core.errors import UserError

    states, begin, patience = "nothing", time.monotonic(), SHORT if started is None else PATIENCE
    while time.monotonic() - begin < patience:
        if started is not None and started.ended():
            raise UserError("The server has ended; what it said stands above.")
        client = make()
        try:
            states = client.states()
            found = [version for version, state in states.items() if state == "AVAILABLE"]
        except (Refused, OSError) as error:
            states, found = error, []
        finally:
            client.close()
        if found:
            return max(found)
        time.sleep(0.2)
    raise UserError(f"No version of {client.model} became available in {patience:.0f} s; the server says: {states}. "
                    "Give host:port of a server that serves it, and the name that it knows it by as --model_name.")


def check(args: Any, name: str, grpc_host: str, rest_host: str, pid: int | None, started: Any = None) -> int:
    """Prints what was found, and returns 0 where all holds, else 1."""
    from model_serving import checks, clients, load

    from pae_zoo.core.errors import UserError

    makers = [lambda kind=kind, host=host: kind(host, name)
              for kind, host in ((clients.Grpc, grpc_host), (clients.Rest, rest_host)) if host]  # fmt: skip
    version = wait(makers[-1], started)
    folder = Path(args.export_dir) / str(version)
    if not folder.is_dir():
        raise UserError(f"The server has version {version} of {name}, and {folder} is not there: give the folder that "
                        "it serves as --export_dir.")
    asked = [make() for make in makers]
    checker, bad = checks.Checker(asked, folder), 0
    print(f"{name}, version {version}: largest differences from tf.saved_model.load at {checks.ROWS} rows, and times "
          f"over {asked[0].name}")
    for signature in sorted(checker.signatures):
        found = checker.compared(signature)
        most = args.search_tolerance if signature in checks.SEARCHES else args.tolerance
        sound = max(found.worst.values()) <= most
        bad += not sound
        differences = ", ".join(f"{key} {value:.1e}" for key, value in found.worst.items())
        times = ", ".join(f"{value:.1f}" for value in found.milliseconds.values())
        print(f"  {'ok ' if sound else 'BAD'} {signature:20} {differences}; {times} ms", flush=True)
    findings = list(checker.findings())
    for finding in findings:
        if not finding.sound:
            print(f"  BAD {finding.what}")
    bad += sum(not finding.sound for finding in findings)
    print(f"{len(findings)} other checks (names, states, what is refused, the same request twice), "
          f"{sum(not finding.sound for finding in findings)} of them bad")
    if args.requests:
        if args.load_signature not in checker.signatures:
            raise UserError(f"--load_signature={args.load_signature} is not served; there are "
                            f"{', '.join(sorted(checker.signatures))}.")
        shares = {client.name: SHARES[client.name] for client in asked}
        print(f"{args.load_signature} under load: requests a second, latencies in ms, memory of the server in MiB")
        for make, client in zip(makers, asked):
            each = -(-args.requests * shares[client.name] // (sum(shares.values()) * len(LOAD_ROWS)))
            for rows in LOAD_ROWS:
                inputs = checks.example(checker.signatures[args.load_signature], rows)
                found = load.run(make, args.load_signature, inputs, each, args.clients, pid)
                grown = "not known" if found.memory_after is None else (
                    f"{found.memory_before:.1f} before, {found.memory_after:.1f} after")
                print(f"  {client.name}, {rows:2} rows, {each} requests by {args.clients} clients: "
                      f"{found.per_second:.0f} a second, p50 {found.p50:.2f}, p99 {found.p99:.2f}, memory {grown}",
                      flush=True)  # fmt: skip
    for client in asked:
        client.close()
    return 1 if bad else 0


@told
def main(argv: list[str]) -> int:
    args = arguments(argv)
    use_package()
    from pae_zoo.core.errors import UserError

    try:
        import tensorflow_serving  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError("tensorflow_serving is not installed, which the messages of the APIs come from: "
                        "pip install tensorflow-serving-api") from error
    base = Path(args.export_dir)
    if not base.is_dir():
        raise UserError(f"--export_dir={base} is no folder; give the one that `python -m pae_zoo.export` wrote.")
    name = args.model_name or base.resolve().name
    if args.grpc or args.rest:
        return check(args, name, args.grpc, args.rest, args.pid)
    command = shlex.split(args.server) or [sys.executable, str(ROOT / "tools" / "model_server.py")]
    with Started(command, name, base) as started:
        return check(args, name, started.grpc, started.rest, started.process.pid, started)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
