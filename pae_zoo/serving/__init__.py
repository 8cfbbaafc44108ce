"""SavedModels for TensorFlow Serving: named signatures, stateless, for any batch size, with warm-up requests.

Every random function takes its seed as an input, so that the same request gives the same answer.
"""

from pae_zoo.serving.exporting import LAST_VERSION, Exported, check_target, export, next_version
from pae_zoo.serving.table import Signature, input_specs, signatures
from pae_zoo.serving.tracing import stateful_operations, trace
from pae_zoo.serving.warmup import WARMUP_FILE, prediction_log_class, read_warmup, write_warmup

__all__ = [
    "LAST_VERSION", "WARMUP_FILE", "Exported", "Signature", "check_target", "export", "input_specs", "next_version",
    "prediction_log_class", "read_warmup", "signatures", "stateful_operations", "trace", "write_warmup",
]  # fmt: skip
