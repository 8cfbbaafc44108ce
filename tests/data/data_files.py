"""Writes tiny files in the forms that the loader reads."""

import gzip
import io
import pathlib
import struct

import numpy as np


def idx_bytes(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.astype(np.uint8).tobytes()


def png_bytes(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_idx(
    folder: pathlib.Path, num_train: int = 24, num_test: int = 6, gz: bool = False, **changes: bytes
) -> dict:
    """Writes the four files; `changes` replaces the bytes of a file by its key, such as train_images."""
    rng = np.random.default_rng(1)
    arrays = {
        "train_images": rng.integers(0, 256, (num_train, 5, 4)), "train_labels": np.arange(num_train) % 3,
        "test_images": rng.integers(0, 256, (num_test, 5, 4)), "test_labels": np.arange(num_test) % 3,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for key, array in arrays.items():
        split, kind = key.split("_")
        name = f"{'t10k' if split == 'test' else 'train'}-{kind}-idx{array.ndim}-ubyte"
        content = changes.get(key, idx_bytes(array))
        (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(content) if gz else content)
    return arrays


def write_png(path: pathlib.Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(pixels))
