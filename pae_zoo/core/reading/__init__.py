"""Files from outside: hostile ones cost a line: regular files alone, claims held against size and memory."""

from pae_zoo.core.reading.archives import gunzipped, member_bytes, stored_bytes, zipped
from pae_zoo.core.reading.arrays import npy, npz, npz_names
from pae_zoo.core.reading.budget import available_memory, check_claim, check_memory, in_words
from pae_zoo.core.reading.files import content, locate, opened, regular, shown, text, told
from pae_zoo.core.reading.pickles import unpickled

__all__ = [
    "available_memory", "check_claim", "check_memory", "content", "gunzipped", "in_words", "locate", "member_bytes",
    "npy", "npz", "npz_names", "opened", "regular", "shown", "stored_bytes", "text", "told", "unpickled", "zipped",
]  # fmt: skip
