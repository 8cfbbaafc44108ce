"""Bad input against the command lines of pae_zoo: what must hold is a clear line, status 2 and nothing written.

  python tools/fuzz/run.py [--only=REGEX] [--share=N] [--jobs=1] [--seconds=N] [--json=FILE] [--list] [--verbose]

Prints a line per failing case and at the end `N cases, H held, F failed`; status 1 if any failed. `make fuzz` runs it,
with FULL=1 all cases. Each case is a forked child under limits of memory and time, in a folder of its own in which
nothing may appear when it is refused; code that a file carries would leave a mark there. Linux; cases that need another
user are skipped unless root runs them. The families flags_* are made of the flags that the project itself lists, so
that a new flag is a new case. A module cases_*.py here has cases; `kit.py` says what is expected of one.
"""

import argparse
import collections
import dataclasses
import importlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path

import kit

HERE = Path(__file__).resolve().parent
# Cases of at least so many seconds end in a training where they are accepted.
LONG = 60
sys.setrecursionlimit(20_000)  # os.walk of deep folders


class Server:
    """A process that has imported the project and runs requests in forked children."""

    def __init__(self, python, project):
        environment = {
            **os.environ,
            "PYTHONPATH": str(project),
            "PYTHONDONTWRITEBYTECODE": "1",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
            "MPLBACKEND": "Agg",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "TF_NUM_INTRAOP_THREADS": "1",
            "TF_NUM_INTEROP_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [python, str(HERE / "server.py"), str(project)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        line = self.process.stdout.readline()
        if not line:
            sys.exit("run.py: the server could not import the project; see above")
        self.ready = json.loads(line)
        self.lock = threading.Lock()
        self.base = 0

    def ask(self, request):
        with self.lock:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the server ended")
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)


def snapshot(root):
    """Names, kinds, sizes and times of everything below `root`, but for tmp/ and the logs of the harness."""
    found = {}
    root = os.fsencode(root)
    for place, names, files in os.walk(root):
        if place == root:
            names[:] = [name for name in names if name not in (b"tmp", b".log")]
        for name in names + files:
            path = os.path.join(place, name)
            info = os.lstat(path)
            regular = stat.S_ISREG(info.st_mode)
            found[path] = (
                stat.S_IFMT(info.st_mode),
                info.st_size if regular else 0,
                info.st_mtime_ns if regular else 0,
            )
    return found


def nonblank(text):
    return [line for line in text.splitlines() if line.strip()]


def judge(case, request, reply, out, err, before, after, base, limit):
    """Returns the reasons why a case failed, the gravest first."""
    reasons, extra = [], max(0, reply["maxrss"] - base) // 1024
    if reply.get("server"):
        reasons.append(f"harness: {reply['server']}")
    if reply["killed"] == "time":
        reasons.append(f"no answer within {limit:.0f} s")
    elif reply["killed"] == "memory":
        reasons.append("memory: killed by the watchdog")
    elif reply["signal"]:
        reasons.append(f"died of signal {reply['signal']}")
    if "Traceback (most recent call last)" in err or "Traceback (most recent call last)" in out:
        last = [line for line in nonblank(err) if not line.startswith(" ")][-1:]
        reasons.append(f"traceback: {''.join(last)[:200]}")
    if extra > case.memory and reply["killed"] != "memory":
        reasons.append(f"memory: {extra} MiB more than at rest")
    done = not reply["killed"] and not reply["signal"]
    status = reply["status"]
    if done and case.expect == "refuse" and status != 2:
        reasons.append("accepted in silence" if status == 0 else f"status {status}")
    if done and case.expect == "accept" and status != 0:
        reasons.append(f"refused: status {status}")
    if done and case.expect == "either" and status not in (0, 2):
        reasons.append(f"status {status}")
    if done and case.expect == "told" and status == 0:
        reasons.append("accepted in silence")
    if done and case.expect == "clean" and status not in (0, 1, 2):
        reasons.append(f"status {status}")
    if done and status != 0 and case.expect in ("refuse", "either", "told", "clean"):
        lines = nonblank(err)
        if not lines:
            reasons.append("no message")
        elif len(lines) > case.lines:
            reasons.append(f"{len(lines)} lines of message")
        elif max(map(len, lines)) > 1500 + 2 * max(map(len, request.get("argv") or [""])):
            reasons.append(f"a line of {max(map(len, lines))} letters")
        if case.says and not any(word.lower() in err.lower() for word in case.says):
            reasons.append(f"the message names none of {', '.join(case.says)}")
    if case.expect == "refuse" or case.expect == "either" and status == 2:
        changed = sorted(os.fsdecode(path) for path in set(before) | set(after) if before.get(path) != after.get(path))
        changed = [
            path
            for path in changed
            if not stat.S_ISDIR(after.get(os.fsencode(path), (0,))[0]) or os.fsencode(path) not in before
        ]
        if changed:
            shown = ", ".join(os.path.relpath(path, request["cwd"]) for path in changed[:3])
            reasons.append(f"wrote {len(changed)}: {shown}")
    for word in case.absent:
        if word in out or word in err:
            reasons.append(f"{word!r} in the output: too late")
    return reasons


def run_case(case, server, root, options):
    place = Path(tempfile.mkdtemp(prefix="case-", dir=root))
    os.chmod(place, 0o755)
    (place / "tmp").mkdir()
    os.chmod(place / "tmp", 0o777)
    log = place / ".log"
    log.mkdir()
    os.chmod(log, 0o777)
    try:
        try:
            request = case.make(place)
        except kit.Skip as skip:
            return dict(key=case.key, skipped=str(skip))
        limit = min(case.seconds, options.seconds) if options.seconds else case.seconds
        request.setdefault("cwd", str(place))
        request.setdefault("memory", case.memory + 512)
        request.update(out=str(log / "out"), err=str(log / "err"), seconds=limit)
        request["env"] = {"TMPDIR": str(place / "tmp"), "HOME": str(place / "tmp"), **(request.get("env") or {})}
        before = snapshot(place)
        reply = server.ask(request)
        after = snapshot(place)
        out, err = (
            (log / name).read_text(errors="replace") if (log / name).exists() else "" for name in ("out", "err")
        )
        reasons = judge(case, request, reply, out, err, before, after, server.base, limit)
        if case.check_many and (log / "err.json").exists():
            found = json.loads((log / "err.json").read_text())
            reasons += case.check_many(request["variants"], found)
        elif case.check_many and not reasons:
            reasons.append("no results")
        if (place / "CANARY").exists():
            reasons.insert(0, "CODE RAN: the canary was made")
        message = " | ".join(nonblank(err)[-2:])[:700].replace(str(place), "<d>")
        return dict(
            key=case.key,
            family=case.family,
            expect=case.expect,
            reasons=[reason.replace(str(place), "<d>") for reason in reasons],
            message=message,
            status=reply["status"],
            extra_mib=max(0, reply["maxrss"] - server.base) // 1024,
            wall=reply["wall"],
            cpu=reply["cpu"],
            argv=[word.replace(str(place), "<d>") for word in request.get("argv") or []],
            module=request.get("module", request["kind"]),
        )
    finally:
        unlock(place)
        shutil.rmtree(place, ignore_errors=True)


def unlock(place):
    for folder, names, _ in os.walk(place):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default=HERE.parent.parent, help="checkout (default: that of this file)")
    parser.add_argument("--python", default=sys.executable, help="Python with the project's dependencies")
    parser.add_argument("--share", type=int, default=1, help="take one in N of the long cases (default: 1)")
    parser.add_argument("--only", default="", help="regular expression: cases FAMILY/NAME to run")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0, help="most seconds of any case (0: each case's own)")
    parser.add_argument("--json", default="", help="file for all results, a JSON line per case")
    parser.add_argument("--list", action="store_true", help="list the cases and end")
    parser.add_argument("--verbose", action="store_true", help="a line for cases that held, too")
    options = parser.parse_args()
    project = Path(options.project).resolve()
    root = tempfile.mkdtemp(prefix="pae-fuzz-")
    os.chmod(root, 0o755)
    try:
        return run_all(options, project, root)
    finally:
        unlock(root)
        shutil.rmtree(root, ignore_errors=True)


def run_all(options, project, root):
    kit.ROOT = Path(root)
    first = None
    if not options.list:
        first = Server(options.python, project)
        kit.ASK = first.ask
    if first is not None:
        kit.FLAGS.update(flags_of(first, root))
    for path in sorted(HERE.glob("cases_*.py")):
        importlib.import_module(path.stem).table()
    chosen = [
        case
        for case in kit.CASES
        if re.search(options.only, case.key)
        and (case.seconds < LONG or zlib.crc32(case.key.encode()) % options.share == 0)
    ]
    keys = collections.Counter(case.key for case in kit.CASES)
    twice = [key for key, times in keys.items() if times > 1]
    if twice:
        sys.exit(f"run.py: two cases have the same name: {twice}")
    if options.list:
        for case in chosen:
            print(f"{case.key}: {case.expect}")
        print(f"{len(chosen)} cases (without those of the families flags_*, which the project's own flags make)")
        return 0
    servers = [first] + [Server(options.python, project) for _ in range(options.jobs - 1)]
    log = open(options.json, "a", encoding="utf-8") if options.json else None
    results, lock, queue = [], threading.Lock(), collections.deque(chosen)

    def work(server):
        place = Path(tempfile.mkdtemp(prefix="rest-", dir=root))
        server.base = server.ask(
            dict(kind="nothing", cwd=str(place), out=str(place / "o"), err=str(place / "e"), seconds=20)
        )["maxrss"]
        while True:
            with lock:
                if not queue:
                    return
                case = queue.popleft()
            try:
                result = run_case(case, server, root, options)
                reasons = result.get("reasons")
                if reasons and all(reason.startswith("no answer within") for reason in reasons):
                    # Slow is no fault, and a machine may be busy.
                    slow = dataclasses.replace(case, seconds=3 * (options.seconds or case.seconds))
                    result = run_case(slow, server, root, argparse.Namespace(**{**vars(options), "seconds": 0}))
            except Exception as error:
                result = dict(
                    key=case.key,
                    family=case.family,
                    reasons=[f"harness: {error!r}"],
                    message="",
                    status=None,
                    wall=0,
                    extra_mib=0,
                )
            with lock:
                results.append(result)
                if log:
                    print(json.dumps(result), file=log, flush=True)
                if result.get("skipped"):
                    print(f"SKIP {result['key']}: {result['skipped']}", flush=True)
                elif result["reasons"]:
                    print(f"FAIL {result['key']}: {'; '.join(result['reasons'])[:600]}", flush=True)
                elif options.verbose:
                    print(
                        f"held {result['key']} ({result['wall']:.1f} s, {result['extra_mib']} MiB): "
                        f"{result['message'][:160]}",
                        flush=True,
                    )

    start = time.monotonic()
    threads = [threading.Thread(target=work, args=(server,)) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for server in servers:
        server.close()
    done = [result for result in results if not result.get("skipped")]
    failed = [result for result in done if result["reasons"]]
    print("\nfamily                  cases  held  failed")
    for family in dict.fromkeys(case.family for case in chosen):
        own = [result for result in done if result["family"] == family]
        bad = sum(bool(result["reasons"]) for result in own)
        print(f"{family:24}{len(own):5}{len(own) - bad:6}{bad:8}")
    print(f"{time.monotonic() - start:.0f} s")
    print(f"{len(done)} cases, {len(done) - len(failed)} held, {len(failed)} failed")
    return 1 if failed else 0


def flags_of(server, root):
    place = Path(tempfile.mkdtemp(prefix="flags-", dir=root))
    server.ask(dict(kind="flags", cwd=str(place), out=str(place / "o"), err=str(place / "e"), seconds=60))
    try:
        return json.loads((place / "flags.json").read_text())
    except (OSError, ValueError):
        print(f"run.py: the project's flags could not be listed: {(place / 'e').read_text()[-500:]}", file=sys.stderr)
        return {}


if __name__ == "__main__":
    sys.exit(main())
