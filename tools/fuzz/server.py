"""Imports the project once, then runs each request in a forked child under limits and a watchdog.

python server.py PROJECT: reads one JSON request per line on stdin, writes one JSON reply per line on stdout.
Request: {"kind": launch | call | many | flags | nothing, "module", "argv", "code", "variants", "cwd", "env",
"out", "err", "seconds", "memory" (extra MiB before the child is killed), "nobody", "fsize", "tree"}.
Reply: {"status", "signal", "killed" ("" | "time" | "memory"), "maxrss" (KiB), "wall", "cpu"}.
"""

import fcntl
import functools
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback

#: times of a limit after which what still computes is killed
PATIENCE = 4


def preload(project):
    sys.path.insert(0, project)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.argv = ["-m"]
    import pae_zoo

    for info in pkgutil.walk_packages(pae_zoo.__path__, "pae_zoo."):
        try:
            importlib.import_module(info.name)
        except Exception as error:  # what cannot be imported is a case's business
            print(f"server: {info.name}: {error!r}", file=sys.stderr)
    for name in (
        "sklearn.datasets",
        "scipy.io",
        "scipy.stats",
        "matplotlib.pyplot",
        "tqdm",
        "h5py",
        "concurrent.futures.thread",
        "encodings.cp437",
        "encodings.utf_16",
        "encodings.latin_1",
        "encodings.idna",
        "tensorflow_datasets",
        "tensorboard.plugins.projector",
        "PIL.Image",
    ):
        try:
            importlib.import_module(name)
        except Exception as error:
            print(f"server: {name}: {error!r}", file=sys.stderr)
    try:
        from PIL import Image

        Image.init()
    except Exception:
        pass


def rss_kib(pid):
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * (resource.getpagesize() // 1024)
    except (OSError, IndexError, ValueError):
        return 0


def group_of(group):
    """Returns (memory in KiB, seconds of computing so far) of the processes of a group."""
    memory, ticks = 0, 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    fields = file.read().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[2] == str(group) or fields[3] == str(group):
                memory += rss_kib(name)
                ticks += sum(map(int, fields[11:15]))
    return memory, ticks / os.sysconf("SC_CLK_TCK")


def run_main(module, argv):
    """As `python -m module argv`: returns the exit status."""
    launch = importlib.import_module("pae_zoo.experiment.launch")
    found = importlib.import_module(module)
    sys.argv = ["-m", *argv]
    return launch.run(found.main, argv)


def guarded(function):
    try:
        return function() or 0
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1


def call(code, folder):
    launch = importlib.import_module("pae_zoo.experiment.launch")
    return launch.run(lambda argv: exec(compile(code, "case", "exec"), {"D": folder, "__name__": "case"}), [])


def describe_flags():
    import dataclasses
    import typing

    models = importlib.import_module("pae_zoo.models")
    found = {}
    records = {name: module.HParams for name, module in models.every().items()}
    for name in ("evaluate", "apply", "export"):
        records[f"/{name}"] = importlib.import_module(f"pae_zoo.{name}").Flags
    for name, record in records.items():
        hints = typing.get_type_hints(record)
        rows = []
        for field in dataclasses.fields(record):
            kind, rule = hints[field.name], field.metadata
            label = {bool: "bool", int: "int", float: "float", str: "str"}.get(kind)
            if label is None:
                label = "ints" if typing.get_args(kind)[0] is int else "words"
            choices = rule.get("choices")
            rows.append(
                dict(
                    name=field.name,
                    kind=label,
                    low=rule.get("low"),
                    above=rule.get("above"),
                    high=rule.get("high"),
                    choices=list(choices) if choices else None,
                    default=field.default if not isinstance(field.default, tuple) else list(field.default),
                )
            )
        found[name] = rows
    return found


def redirect(path, descriptor):
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(opened, descriptor)
    os.close(opened)


def child(request, base_kib):
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if request.get("pipes"):  # a limit on the size of files must not cut the messages
        os.dup2(request["pipes"][0], 1)
        os.dup2(request["pipes"][1], 2)
    else:
        redirect(request["out"], 1)
        redirect(request["err"], 2)
    sys.stdin = open(0, closefd=False)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.environ.update(request.get("env") or {})
    import tempfile

    tempfile.tempdir = None
    os.chdir(request["cwd"])
    sys.path.insert(0, request["cwd"])  # as python -m does
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    cap = size + (int(request.get("address_gib", 14)) << 30)
    resource.setrlimit(resource.RLIMIT_AS, (cap, cap))
    cpu = int(request["seconds"]) * 4 + 20
    resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu + 5))
    if request.get("fsize"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["fsize"], request["fsize"]))
    if request.get("nobody"):
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    kind, argv = request["kind"], request.get("argv") or []
    if kind == "launch":
        status = guarded(lambda: run_main(request["module"], argv))
    elif kind == "call":
        status = guarded(lambda: call(request["code"], request["cwd"]))
    elif kind == "flags":
        with open(request["cwd"] + "/flags.json", "w") as file:
            json.dump(describe_flags(), file)
        status = 0
    elif kind == "many":
        results = []
        for variant in request["variants"]:
            for descriptor, end in ((1, "o"), (2, "e")):
                redirect(f"{request['err']}.{end}", descriptor)
            status = guarded(functools.partial(run_main, request["module"], variant))
            sys.stdout.flush()
            sys.stderr.flush()
            texts = [open(f"{request['err']}.{end}", errors="replace").read()[:6000] for end in "oe"]
            results.append([status, *texts])
        with open(request["err"] + ".json", "w") as file:
            json.dump(results, file)
        status = 0
    else:
        status = 0
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            pass
    os._exit(status if isinstance(status, int) and 0 <= status < 256 else 1)


def is_waiting(group, wall):
    """Whether processes have computed for less than a twentieth of the time."""
    return group_of(group)[1] < wall / 20


def serve(request):
    base, ends = rss_kib(os.getpid()), []
    if request.get("fsize"):
        ends = [os.pipe() for _ in "oe"]
        for reader, _ in ends:
            fcntl.fcntl(reader, 1031, 1 << 20)  # F_SETPIPE_SZ
            os.set_blocking(reader, False)
        request["pipes"] = [writer for _, writer in ends]
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            child(request, base)
        except BaseException:
            try:
                traceback.print_exc()
            except BaseException:
                pass
        finally:
            os._exit(99)
    for _, writer in ends:
        os.close(writer)
    killed, peak, limit_kib = "", 0, base + 1024 * int(request.get("memory", 3072))
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            break
        wall = time.monotonic() - start
        now = group_of(pid)[0] if request.get("tree") else rss_kib(pid)
        peak = max(peak, now)
        # On a busy machine the time on the clock says little: what computes on may have more of it, what waits may not.
        late = wall > request["seconds"] and (wall > PATIENCE * request["seconds"] or is_waiting(pid, wall))
        if not killed and (now > limit_kib or late):
            killed = "memory" if now > limit_kib else "time"
            os.killpg(pid, signal.SIGKILL) if os.getpgid(pid) == pid else os.kill(pid, signal.SIGKILL)
        time.sleep(0.01 if time.monotonic() - start < 2 else 0.03)
    try:
        os.killpg(pid, signal.SIGKILL)  # what the case left running in its own group
    except (ProcessLookupError, PermissionError):
        pass
    for (reader, _), name in zip(ends, ("out", "err")):
        text = b""
        try:
            while piece := os.read(reader, 1 << 16):
                text += piece
        except BlockingIOError:
            pass
        os.close(reader)
        with open(request[name], "wb") as file:
            file.write(text)
    code = os.waitstatus_to_exitcode(status)
    return dict(
        status=code if code >= 0 else None,
        signal=-code if code < 0 else 0,
        killed=killed,
        maxrss=max(usage.ru_maxrss, peak),
        wall=round(time.monotonic() - start, 3),
        cpu=round(usage.ru_utime + usage.ru_stime, 3),
    )


def main():
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    start = time.monotonic()
    preload(os.path.abspath(sys.argv[1]))
    gc.collect()
    gc.freeze()
    print(
        json.dumps(dict(ready=True, rss=rss_kib(os.getpid()), seconds=round(time.monotonic() - start, 1))),
        file=replies,
        flush=True,
    )
    for line in sys.stdin:
        try:
            reply = serve(json.loads(line))
        except Exception as error:
            reply = dict(status=None, signal=0, killed="", maxrss=0, wall=0, cpu=0, server=repr(error))
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    main()
