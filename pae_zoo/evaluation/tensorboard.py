"""What an evaluation shows in TensorBoard: scalars, image grids, the config, codes for the projector."""

from collections.abc import Mapping, Sequence
from typing import Any, Optional

import numpy as np

from pae_zoo.plotting import figures

FOLDER = "tensorboard/evaluation"
MAX_POINTS = 10_000
MAX_SPRITE_PIXELS = 4096  # a browser's texture


class Board:
    """Writes to tensorboard/evaluation of a work directory; the event file is opened by the first use."""

    def __init__(self, run: Any, step: int = 0, suffix: str = ""):
        self.run, self.folder = run, FOLDER + suffix
        self.step = step
        self._writer = None

    @property
    def writer(self) -> Any:
        if self._writer is None:
            import tensorflow as tf

            self._writer = tf.summary.create_file_writer(str(self.run.workdir / self.folder))
        return self._writer

    def scalars(self, values: Mapping[str, Any]) -> None:
        """Writes the numbers among `values` under their own names."""
        import tensorflow as tf

        with self.writer.as_default(step=self.step):
            for key, value in values.items():
                if not isinstance(value, str):
                    tf.summary.scalar(key, value)

    def images(self, tag: str, table: np.ndarray) -> None:
        """Writes a table of images (rows, columns, H, W, C) in [0, 1] as one picture."""
        import tensorflow as tf

        with self.writer.as_default(step=self.step):
            tf.summary.image(tag, figures.mosaic(table)[None])

    def figure(self, tag: str, figure: Any) -> None:
        """Writes a matplotlib figure as one picture."""
        import tensorflow as tf

        with self.writer.as_default(step=self.step):
            tf.summary.image(tag, figures.pixels(figure)[None])

    def config(self) -> None:
        """Writes config.json, where the work directory has one, as text."""
        import tensorflow as tf

        path = self.run.workdir / "config.json"
        if path.exists():
            text = path.read_text(encoding="utf-8")
            with self.writer.as_default(step=self.step):
                tf.summary.text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    @staticmethod
    def capacity(event_shape: Sequence[int]) -> int:
        """Returns how many data the projector gets: 10,000, or fewer where their images fill a sheet."""
        if len(event_shape) != 3:
            return MAX_POINTS
        return min(MAX_POINTS, (MAX_SPRITE_PIXELS // event_shape[0]) * (MAX_SPRITE_PIXELS // event_shape[1]))

    def embedding(
        self, codes: np.ndarray, labels: Optional[np.ndarray], images: Optional[np.ndarray]
    ) -> None:
        """Writes up to `capacity` codes (n, K), with labels (n,) and images (n, H, W, C), for the projector."""
        lines = ["embeddings {", '  tensor_name: "codes"', '  tensor_path: "codes.tsv"']
        if images is not None:
            height, width = images.shape[1:3]
            self.run.save(f"{FOLDER}/sprite.png", lambda path: _write_sprite(path, images))
            sprite = f'  sprite {{ image_path: "sprite.png" single_image_dim: {width} single_image_dim: {height} }}'
            lines.append(sprite)
        if labels is not None:
            text = "\n".join(str(label) for label in labels) + "\n"
            self.run.save(f"{FOLDER}/labels.tsv", lambda path: _write_text(path, text))
            lines.append('  metadata_path: "labels.tsv"')
        self.run.save(
            f"{FOLDER}/codes.tsv",
            lambda path: np.savetxt(path, codes, fmt="%.6g", delimiter="\t"),
        )
        config = "\n".join([*lines, "}", ""])
        self.run.save(f"{FOLDER}/projector_config.pbtxt", lambda path: _write_text(path, config))

    def close(self) -> None:
        """Flushes and closes the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _write_text(path, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _write_sprite(path, images: np.ndarray) -> None:
    """Writes images (n, H, W, C) in [0, 1] row by row into a square sheet, as the projector reads them."""
    from matplotlib import image

    side = int(np.ceil(np.sqrt(len(images))))
    padding = np.ones((side * side - len(images), *images.shape[1:]), images.dtype)
    table = np.concatenate([images, padding]).reshape(side, side, *images.shape[1:])
    image.imsave(path, figures.mosaic(table, pad=0), format="png")
