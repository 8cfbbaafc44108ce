"""A detector of unusual rows of tables and embeddings that needs no labels and no choices."""

from collections.abc import Sequence
from typing import Any, Optional

import keras
import numpy as np
import tensorflow as tf
from keras.saving import register_keras_serializable

from pae_zoo.anomaly import calibration
from pae_zoo.anomaly.combined import Scores
from pae_zoo.anomaly.neighbours import Neighbours
from pae_zoo.anomaly.whitening import HalfWhitening
from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError
from pae_zoo.densities.kernels import KernelDensity, LocalMixture

#: parts, each with its weight in the smooth maximum: ranked columns cannot go beyond the data, and count less
PARTS: dict[str, float] = {"kernel": 1.0, "local": 1.0, "neighbours": 1.0, "ranked_neighbours": 0.1}
# Folds, and of so few rows that each tenth is missed.
FOLDS, MANY_FOLDS, FEW_ROWS = 5, 10, 1000
# Rows that a fold is fitted to, components of the local mixture, and columns up to which columns are compared singly.
MOST_ROWS, MOST_COMPONENTS, MOST_COMPARED = 4000, 1200, 200
# Variance that counts as none in half-whitening: of standardised columns, and of fewer rows than columns.
FLOOR, WIDE_FLOOR = 1.0, 0.01
# Held-out rows by which widths are chosen, and rows kept to explain others by.
CHOOSING_ROWS, EXPLAINING_ROWS = 2000, 1000


@register_keras_serializable("pae_zoo")
class Fold(keras.layers.Layer):
    """The parts of a detector, fitted to some of its rows.

    Args:
      num_columns, num_rows: d and n.
      parts: names of `PARTS`.
      floor: of `HalfWhitening`.
    """

    def __init__(self, num_columns: int, num_rows: int, parts: Sequence[str], floor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_columns, self.num_rows, self.floor = int(num_columns), int(num_rows), float(floor)
        self.parts = tuple(parts)
        self.whitening = HalfWhitening(num_columns, min(num_columns, max(num_rows - 1, 1)), floor)
        size = self.whitening.num_dims
        made = {"kernel": lambda: KernelDensity(size, num_rows),
                "local": lambda: LocalMixture(size, min(num_rows, MOST_COMPONENTS)),
                "neighbours": lambda: Neighbours(num_columns, num_rows),
                "ranked_neighbours": lambda: Neighbours(num_columns, num_rows, ranked=True)}
        self.fitted = [made[name]() for name in self.parts]
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def fit(self, x: np.ndarray, generator: np.random.Generator) -> None:
        """Fits all parts to x (n, d)."""
        self.whitening.fit(x)
        z = self.whitening(tf.constant(x)).numpy()
        for part in self.fitted:
            if isinstance(part, LocalMixture):
                chosen = generator.permutation(len(z))[: part.num_rows]
                part.fit(z, z[chosen])
            else:
                part.fit(z if isinstance(part, KernelDensity) else x)

    def widths(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the mean log density of rows x (m, d) with each of a part's widths, by the names of parts."""
        z = self.whitening(tf.constant(x))
        return {name: np.mean(part.log_probs(z, part.WIDTHS).numpy(), axis=0)
                for name, part in zip(self.parts, self.fitted) if not isinstance(part, Neighbours)}

    def widen(self, factors: dict[str, float]) -> None:
        """Multiplies the widths of the parts that `factors` names."""
        for name, part in zip(self.parts, self.fitted):
            if name in factors:
                part.width.assign(part.width * factors[name])

    def scores(self, x: np.ndarray) -> np.ndarray:
        """Returns the scores of rows x (m, d) by each part, (parts, m), with scikit-learn's search of neighbours."""
        z = self.whitening(tf.constant(x))
        return np.stack([part.scores(x) if isinstance(part, Neighbours) else -part.log_prob(z).numpy()
                         for part in self.fitted])

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the scores of rows x (m, d) by each part, (parts, m)."""
        z = self.whitening(x)
        return tf.stack([part(x) if isinstance(part, Neighbours) else -part.log_prob(z) for part in self.fitted])

    def get_config(self) -> dict[str, Any]:
        own = ("num_columns", "num_rows", "parts", "floor")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


@register_keras_serializable("pae_zoo")
class Detector(keras.Model):
    """Scores rows of numbers by how unusual they are among the rows it was fitted to, with p-values.

    In each of five folds, ten of up to 1,000 rows, the parts of `PARTS` are fitted to the others' rows and score the
    fold's own, which is the calibration, and new rows. Each part's score, for a new row the mean over folds, becomes a
    surprise -log p by the calibration (`calibration.Tail`), and the score is the smooth maximum of the surprises, nats.
    More than 200 columns have no parts that compare single columns; of more columns than rows `kernel` alone is taken.

    Args:
      num_columns: d.
      seed: of folds and of what is drawn.
      parts, rows, held_out: names of the parts, rows that each fold is fitted to, and rows that it leaves out; ()
        before `learn`, which chooses them.

    Raises UserError for no column.

    Examples:
      >>> import numpy as np
      >>> x = np.random.default_rng(0).normal(size=(200, 3)).astype("float32")
      >>> detector = Detector(3).learn(x)
      >>> bool(detector.pvalues([[9.0, 0.0, 0.0]])[0] < 0.01)
      True
    """

    def __init__(self, num_columns: int, seed: int = 0, parts: Sequence[str] = (), rows: Sequence[int] = (),
                 held_out: Sequence[int] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_columns, self.seed, self.parts = int(num_columns), int(seed), tuple(parts)
        self.rows, self.held_out = tuple(map(int, rows)), tuple(map(int, held_out))
        if self.num_columns < 1:
            raise UserError(f"A detector needs one column or more; received num_columns={num_columns}.")
        self._tails: Optional[list[calibration.Tail]] = None
        self._learned_order: Optional[np.ndarray] = None
        if self.rows:
            self._make()

    def _make(self) -> None:
        size = self.num_columns
        floor = WIDE_FLOOR if self.parts == ("kernel",) else FLOOR

        def weight(shape, name, initializer="zeros"):
            return self.add_weight(shape=shape, initializer=initializer, trainable=False, name=name)

        self.centre, self.scale = weight((size,), "centre"), weight((size,), "scale", "ones")
        self.calibration = weight((len(self.parts), sum(self.held_out)), "calibration")
        self.usual = weight((min(sum(self.held_out), EXPLAINING_ROWS), size), "usual")
        self.folds = [Fold(size, rows, self.parts, floor) for rows in self.rows]
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        self.built = True

    def learn(self, x: Any) -> "Detector":
        """Fits the detector to rows x (n, d) of usual data, in place, and returns it.

        Raises UserError for fewer than 2 rows, for NaN, and of a detector that has learned.
        """
        x = self._checked(x)
        if len(x) < 2:
            raise UserError(f"A detector needs 2 rows or more to learn from; received {len(x)}.")
        if self.rows:
            raise UserError("This detector has learned already; make another one.")
        num, size = x.shape
        generator = np.random.default_rng(seeds.integer(self.seed & 0x7FFFFFFF, FOLDS))
        order = generator.permutation(num)
        held = np.array_split(order, min(MANY_FOLDS if num <= FEW_ROWS else FOLDS, num))
        kept = [_some(np.setdiff1d(order, part), MOST_ROWS, generator) for part in held]
        if size >= min(map(len, kept)):
            self.parts = ("kernel",)
        else:
            self.parts = tuple(PARTS)[: 2 if size > MOST_COMPARED else None]
        self.rows, self.held_out = tuple(map(len, kept)), tuple(map(len, held))
        self._make()
        centre, scale = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
        self.centre.assign(centre)
        self.scale.assign(np.where(scale > 1e-6 * np.abs(centre), scale, 1.0))
        x = self._standardised(x)
        self.usual.assign(x[_some(np.arange(num), EXPLAINING_ROWS, generator)])
        for fold, rows in zip(self.folds, kept):
            fold.fit(x[rows], generator)
        self._choose_widths(x, held, generator)
        self.calibration.assign(np.concatenate([fold.scores(x[rows]) for fold, rows in zip(self.folds, held)], axis=1))
        self._tails, self._learned_order = None, np.argsort(order)
        return self

    def _choose_widths(self, x: np.ndarray, held: list[np.ndarray], generator: np.random.Generator) -> None:
        """Sets the widths of densities to those of the highest mean log density of held-out rows over all folds."""
        tables = [fold.widths(x[_some(rows, CHOOSING_ROWS // len(held), generator)])
                  for fold, rows in zip(self.folds, held)]
        widths = {"kernel": KernelDensity.WIDTHS, "local": LocalMixture.WIDTHS}
        best = {name: widths[name][int(np.argmax(np.mean([table[name] for table in tables], axis=0)))]
                for name in tables[0]}
        for fold in self.folds:
            fold.widen(best)

    # ---- scores ------------------------------------------------------------------------------------

    def score(self, x: Any) -> Scores:
        """Returns all that is said of rows x (m, d).

        The p-values are cross-conformal (Vovk, Ann. Math. Artif. Intell. 2015): 1 + the number of calibration rows that
        score as high as the row does by the fold that left them out, over n + 1.
        """
        return self._score(self._standardised(self._checked(x)))

    def _score(self, x: np.ndarray) -> Scores:
        each = np.stack([fold.scores(x) for fold in self.folds])  # (folds, parts, m)
        parts = [one.numpy() for one in self._surprises(tf.constant(each.mean(axis=0), tf.float32))]
        score = self._combined(tf.constant(each.mean(axis=0), tf.float32)).numpy()
        own, edges = self._calibration_scores(), np.cumsum(self.held_out)
        above = np.zeros(len(x))
        for fold, scores in zip(np.split(own, edges[:-1]), each):
            combined = self._combined(tf.constant(scores, tf.float32)).numpy()
            above += len(fold) - np.searchsorted(np.sort(fold), combined, side="left")
        return Scores(score, (1.0 + above) / (1.0 + len(own)), dict(zip(self.parts, parts)))

    def pvalues(self, x: Any) -> np.ndarray:
        """Returns conformal p-values (m,) of rows x (m, d), see `score`."""
        return self.score(x).pvalues

    def explain(self, x: Any) -> np.ndarray:
        """Returns what each column adds to the scores of rows x (m, d), nats, (m, d).

        Occlusion: the score of the row less that of the row whose column is the mean of its five nearest usual rows in
        the other columns. A score for each column of each row, so give few rows.
        """
        x = self._standardised(self._checked(x))
        usual = np.asarray(self.usual)
        count = min(5, len(usual))
        whole = self._score(x).scores
        found = np.zeros(x.shape)
        for index, row in enumerate(x):
            apart = np.abs(row - usual)
            others = apart.sum(axis=1)[:, None] - apart  # (usual rows, columns): distances without the column
            nearest = np.argpartition(others, count - 1, axis=0)[:count]
            changed = np.repeat(row[None], len(row), axis=0)
            np.fill_diagonal(changed, np.take_along_axis(usual, nearest, axis=0).mean(axis=0))
            found[index] = whole[index] - self._score(changed).scores
        return found

    def learned_scores(self) -> np.ndarray:
        """Returns the scores (n,) of the rows that `learn` had, each by the fold that has not seen it.

        In their order right after `learn`; of a detector that was loaded, in that of the folds.
        """
        own = self._calibration_scores()
        return own if self._learned_order is None else own[self._learned_order]

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Returns the scores (m,) of rows x (m, d)."""
        self._need_rows()
        x = (tf.convert_to_tensor(x, self.compute_dtype) - self.centre) / self.scale
        return self._combined(tf.add_n([fold(x) for fold in self.folds]) / len(self.folds))

    def _calibration_scores(self) -> np.ndarray:
        self._need_rows()
        return self._combined(tf.convert_to_tensor(self.calibration.value)).numpy()

    def _surprises(self, scores: tf.Tensor) -> list[tf.Tensor]:
        if self._tails is None:
            self._tails = [calibration.tail(one) for one in np.asarray(self.calibration)]
        return [tail.surprise(one) for tail, one in zip(self._tails, tf.unstack(scores))]

    def _combined(self, scores: tf.Tensor) -> tf.Tensor:
        return calibration.smooth_maximum(self._surprises(scores), [PARTS[name] for name in self.parts])

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        self._need_rows()
        found = (np.asarray(x, np.float64) - np.asarray(self.centre)) / np.asarray(self.scale)
        return found.astype(np.float32)

    def _need_rows(self) -> None:
        if not self.rows:
            raise UserError("The detector has learned nothing yet. Call learn first.")

    def _checked(self, x: Any) -> np.ndarray:
        x = np.asarray(x)
        if x.ndim != 2 or x.shape[1] != self.num_columns:
            raise UserError(f"The detector takes rows of {self.num_columns} numbers; received shape {x.shape}.")
        if not np.isfinite(x).all():
            raise UserError(f"{int(np.sum(~np.isfinite(x).all(axis=1)))} of {len(x)} rows hold NaN or infinity; leave "
                            "them out, or fill them in.")
        return x

    def get_config(self) -> dict[str, Any]:
        own = ("num_columns", "seed", "parts", "rows", "held_out")
        return {**super().get_config(), **{name: getattr(self, name) for name in own}}


def _some(rows: np.ndarray, most: int, generator: np.random.Generator) -> np.ndarray:
    """Returns at most so many of the rows, drawn at random."""
    return rows if len(rows) <= most else np.sort(generator.permutation(rows)[:most])
