"""Cases: work directories, and output paths of apply and export."""

import os

from kit import (
    BASE_FLAGS,
    TINY,
    add,
    again,
    apply,
    as_root,
    base,
    evaluate,
    export,
    fifo,
    folder,
    link,
    main,
    picture_folder,
    resume,
    run_of,
    tiny,
    write,
)


def table():
    workdirs()
    outs()


IMPOSSIBLE = {
    "proc": "/proc/x",
    "sys": "/sys/x",
    "under-dev-null": "/dev/null/x",
    "under-a-file": "/etc/passwd/x",
    "name-of-300-letters": "{d}/" + "n" * 300,
    "path-of-5000-letters": "{d}" + "/n" * 2500,
    "nul": "{d}/a\0b",
    "home-of-nobody": "~no_such_user_7/x",
    "proc-self-fd": "/proc/self/fd/x",
}


def workdirs():
    for name, path in IMPOSSIBLE.items():
        expect = "either" if name == "home-of-nobody" else "refuse"
        add(
            "workdir",
            f"main-{name}",
            lambda d, path=path: tiny(d, f"--workdir={path.format(d=d)}"),
            says="workdir",
            expect=expect,
            seconds=40,
        )
        add(
            "workdir",
            f"main-init-{name}",
            lambda d, path=path: tiny(d, f"--init_workdir={path.format(d=d)}"),
            lines=3,
            says=("workdir", "does not exist", "cannot be read"),
            seconds=40,
        )
        add("workdir", f"evaluate-{name}", lambda d, path=path: evaluate(d, f"--workdir={path.format(d=d)}"), lines=3)
        add(
            "workdir",
            f"apply-{name}",
            lambda d, path=path: apply(d, f"--workdir={path.format(d=d)}", "--input=folder:.", "--out=o.npz"),
            lines=3,
        )
        add(
            "workdir",
            f"export-{name}",
            lambda d, path=path: export(d, f"--workdir={path.format(d=d)}", "--export_dir=e"),
            lines=3,
        )

    def case(name, make, *flags, **how):
        how.setdefault("says", "workdir")
        how.setdefault("seconds", 40)

        def prepare(d):
            more = make(d / "run") or {}
            return tiny(d, *flags, **(more if isinstance(more, dict) else {}))

        add("workdir", f"main-{name}", prepare, **how)

    def nobody_in(mode):
        def make(path):
            as_root()
            os.chmod(path.parent, mode)
            return dict(nobody=True)

        return make

    case("a-file", lambda path: write(path, "x"))
    case("fifo", fifo)
    case("dangling-link", lambda path: link(path, "/nowhere/at/all"), expect="refuse")
    case("link-to-itself", lambda path: link(path, path))
    case("not-empty", lambda path: write(path / "thesis.txt", "precious"))
    case("not-empty-hidden-file", lambda path: write(path / ".hidden", "x"))
    case("folder-that-may-not-be-written", nobody_in(0o555))
    case(
        "existing-folder-that-may-not-be-written",
        lambda path: (as_root(), path.mkdir(), os.chmod(path, 0o555), dict(nobody=True))[3],
    )
    case(
        "folder-that-may-not-be-entered",
        lambda path: (as_root(), path.mkdir(), os.chmod(path, 0), dict(nobody=True))[3],
    )
    case("config-is-a-folder", lambda path: (path / "config.json").mkdir(parents=True), says=("config.json", "workdir"))
    case("config-is-a-fifo", lambda path: fifo(path / "config.json"), says=("config.json", "workdir"))
    case("config-is-a-device", lambda path: link(path / "config.json", "/dev/zero"), says=("config.json", "workdir"))
    case("name-not-utf-8", lambda path: None, "--workdir=\udcff\udcfe", expect="either", seconds=60)
    case("name-with-a-new-line", lambda path: None, "--workdir=a\nb", expect="either", seconds=60)
    case("name-with-a-glob", lambda path: None, "--workdir=[a*?]", expect="either", seconds=60)
    case(
        "disk-full-at-the-start",
        lambda path: dict(fsize=10),
        expect="told",
        says=("space", "large", "write", "workdir"),
    )
    case(
        "disk-full-at-20-kB",
        lambda path: dict(fsize=20_000),
        expect="told",
        says=("space", "large", "write", "workdir"),
        seconds=60,
    )
    add("workdir", "evaluate-both-spellings", lambda d: evaluate(d, "--workdir=a", "--workdirs=b,c"), says=("a", "b"))
    add(
        "workdir",
        "init-is-itself",
        lambda d: (run_of("vae", d), main(d, *BASE_FLAGS["vae"], f"--init_workdir={d}/run"))[1],
        says="workdir",
    )
    add(
        "workdir",
        "init-of-another-set",
        lambda d: tiny(d, f"--init_workdir={base('circle')}", "--dataset=digits", model="vae"),
        says=("init_workdir", "fit"),
        expect="told",
        seconds=60,
    )
    add(
        "workdir",
        "run-of-another-model",
        lambda d: (run_of("vae", d), main(d, "--model=ae", "--dataset=digits", *TINY))[1],
        says="model",
    )
    add("workdir", "run-with-another-seed", lambda d: (run_of("vae", d), again(d, "vae", "--seed=5"))[1], says="seed")
    add("workdir", "sound-again", lambda d: (run_of("vae", d), again(d))[1], expect="accept", seconds=60)
    add(
        "workdir",
        "resume-that-may-not-be-written",
        locked_run,
        says=("workdir", "written", "permission"),
        expect="told",
        seconds=60,
    )
    add(
        "workdir",
        "evaluate-that-may-not-be-written",
        lambda d: locked_run(d, evaluate),
        expect="told",
        seconds=60,
        says=("workdir", "written", "permission"),
    )


def locked_run(d, launcher=None):
    as_root()
    run_of("vae", d)
    for place, _, files in os.walk(d / "run"):
        os.chmod(place, 0o555)
        for name in files:
            os.chmod(os.path.join(place, name), 0o444)
    request = evaluate(d, f"--workdir={d}/run", "--tasks=reconstruction") if launcher else resume(d)
    return {**request, "nobody": True}


def outs():
    def case(name, out, make=lambda d: None, *flags, **how):
        how.setdefault("says", "out")
        how.setdefault("seconds", 40)
        how.setdefault("absent", ("wrote ",) if how.get("expect", "refuse") != "accept" else ())

        def prepare(d):
            run_of("vae", d)
            picture_folder(d / "pics", 6)
            more = make(d) or {}
            return {
                **apply(d, f"--workdir={d}/run", f"--input=folder:{d}/pics", f"--out={out.format(d=d)}", *flags),
                **(more if isinstance(more, dict) else {}),
            }

        add("out", name, prepare, **how)

    case("sound-npz", "{d}/o.npz", expect="accept", seconds=60)
    case("sound-csv", "{d}/new/o.csv", expect="accept", seconds=60)
    case("sound-folder", "{d}/new/o", lambda d: None, "--outputs=reconstruction,codes", expect="accept", seconds=60)
    for ending in ("", ".npz", ".csv"):
        kind = ending[1:] or "folder"
        flags = ("--outputs=reconstruction",) if not ending else ()
        case(f"{kind}-proc", f"/proc/x{ending}", lambda d: None, *flags)
        case(f"{kind}-sys", f"/sys/x{ending}", lambda d: None, *flags)
        case(f"{kind}-under-a-file", f"/etc/passwd/x{ending}", lambda d: None, *flags)
        case(f"{kind}-under-dev-null", f"/dev/null/x{ending}", lambda d: None, *flags)
        case(f"{kind}-name-of-300-letters", "{d}/" + "n" * 300 + ending, lambda d: None, *flags)
        case(f"{kind}-nul", "{d}/a\0b" + ending, lambda d: None, *flags)
        case(
            f"{kind}-dangling-link",
            "{d}/o" + ending,
            lambda d, ending=ending: link(d / f"o{ending}", "/nowhere/x"),
            *flags,
            expect="clean",
            absent=(),
        )
        case(f"{kind}-exists", "{d}/o" + ending, lambda d, ending=ending: write(d / f"o{ending}", "precious"), *flags)
        case(f"{kind}-in-a-locked-folder", "{d}/lock/o" + ending, locked, *flags, says=("out", "permission"))
        case(
            f"{kind}-disk-full",
            "{d}/o" + ending,
            lambda d: dict(fsize=100),
            *flags,
            expect="told",
            says=("out", "large", "space"),
        )
    case("npz-is-a-folder", "{d}/o.npz", lambda d: folder(d / "o.npz"))
    case("not-utf-8", "{d}/\udcff.npz", expect="either", seconds=60)
    case(
        "names-not-utf-8-in-csv",
        "{d}/o.csv",
        lambda d: write(d / "pics" / "\udcff.png", (d / "pics/000.png").read_bytes()),
        expect="either",
        seconds=60,
        says=(),
        absent=(),
    )
    case(
        "inside-the-input",
        "{d}/pics/o",
        lambda d: None,
        "--outputs=reconstruction",
        expect="either",
        seconds=60,
        absent=(),
    )

    def serve(name, place, make=lambda d: None, *flags, **how):
        how.setdefault("says", ("export_dir", "version"))
        how.setdefault("seconds", 60)
        how.setdefault("absent", ("wrote ",) if how.get("expect", "refuse") != "accept" else ())

        def prepare(d):
            run_of("vae", d)
            more = make(d) or {}
            return {
                **export(d, f"--workdir={d}/run", f"--export_dir={place.format(d=d)}", *flags),
                **(more if isinstance(more, dict) else {}),
            }

        add("export", name, prepare, **how)

    serve("sound", "{d}/e", expect="accept")
    for name, path in IMPOSSIBLE.items():
        serve(
            name,
            path,
            expect="either" if name == "home-of-nobody" else "refuse",
            absent=() if name == "home-of-nobody" else ("wrote ",),
        )
    serve("a-file", "{d}/e", lambda d: write(d / "e", "x"))
    serve("dangling-link", "{d}/e", lambda d: link(d / "e", "/nowhere/x"))
    serve("version-exists", "{d}/e", lambda d: folder(d / "e" / "3"), "--version=3")
    serve("version-folder-of-300-digits", "{d}/e", lambda d: folder(d / "e" / ("9" * 200)), expect="either", absent=())
    serve("version-folder-in-superscript", "{d}/e", lambda d: folder(d / "e" / "²"), expect="either", absent=())
    serve("version-folder-of-9223372036854775807", "{d}/e", lambda d: folder(d / "e" / str(2**63 - 1)))
    serve("disk-full", "{d}/e", lambda d: dict(fsize=1000), expect="told", says=("export_dir", "large", "space"))


def locked(d):
    as_root()
    folder(d / "lock")
    os.chmod(d / "lock", 0o555)
    return dict(nobody=True)
