"""A small server to check exported models against: not TensorFlow Serving, and not for production.

    python tools/model_server.py --model_name=vae --model_base_path=serving/vae

It answers Predict, GetModelMetadata and GetModelStatus over gRPC and /v1/models/... over REST as TensorFlow Serving
documents them, by TensorFlow's own C runtime: the versions of a folder are loaded by `tensorflow::LoadSavedModel`,
warmed up by their warm-up requests, watched, and changed over. There is no batching, no classify and no regress. Flags
have the names of those of `tensorflow_model_server`. It needs `pip install tensorflow-serving-api`.
"""

import signal
import sys
import threading
from pathlib import Path

from command import Parser, natural, path, told, use_package


def arguments(argv):
    parser = Parser(prog="model_server", description=__doc__)
    parser.add_argument("--model_name", default="", help="by which requests ask (default: that of the folder)")
    parser.add_argument("--model_base_path", type=path, required=True, help="holds a folder for each version")
    parser.add_argument("--port", type=natural, default=8500, help="of gRPC (0: a free one)")
    parser.add_argument("--rest_api_port", type=natural, default=8501, help="of REST (0: a free one)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--file_system_poll_wait_seconds", type=float, default=1.0, help="between looks at the folder")
    parser.add_argument("--threads", type=natural, default=8, help="that answer gRPC")
    parser.add_argument("--all_versions", action="store_true", help="serve all versions, not the highest alone")
    return parser.parse_args(argv)


@told
def main(argv: list[str]) -> int:
    args = arguments(argv)
    use_package()
    from pae_zoo.core.errors import UserError

    try:
        from model_serving import grpc_api, rest_api, versions
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed, which the messages of the APIs come from: "
                        "pip install tensorflow-serving-api") from error
    base = Path(args.model_base_path)
    if not base.is_dir():
        raise UserError(f"--model_base_path={base} is no folder; give the one that `python -m pae_zoo.export` wrote, "
                        "with a folder for each version.")
    model = versions.Versions(args.model_name or base.resolve().name, base, args.all_versions,
                              lambda line: print(line, flush=True))
    model.poll()
    server, port = grpc_api.serve(model, args.host, args.port, args.threads)
    rest = rest_api.serve(model, args.host, args.rest_api_port)
    model.watch(args.file_system_poll_wait_seconds)
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    print(f"{model.name}: gRPC at {args.host}:{port}, REST at {args.host}:{rest.server_port}", flush=True)
    ended.wait()
    model.stop()
    rest.shutdown()
    server.stop(1.0).wait()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
