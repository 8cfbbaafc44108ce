"""Estimators with the interface of scikit-learn: anomalies, densities and latents of rows of numbers.

    AnomalyDetector().fit(table).predict(new)        # 1 usual, -1 unusual; pvalues(new), explain(new)
"""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

import keras
import numpy as np
import tensorflow as tf
from scipy import optimize
from sklearn.base import BaseEstimator, DensityMixin, OutlierMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from pae_zoo import anomaly, densities, models, networks
from pae_zoo.core.errors import UserError, unknown

#: models of the zoo that fit a table by themselves, from networks and nothing else
MODELS = ("ae", "lae_posthoc", "pae", "rae", "vae", "vlae", "wae")
#: models that fill in what is missing
IMPUTING = ("hf", "iaf", "vae", "vlae")
# Latents of a row behind its bound in training, and rows that are filled in at once.
SAMPLES, ROWS = 10, 500
RATE, BATCH, LOG_VARIANCE = 2e-3, 64, -1.0
# The share of rows that a model is not fitted to, which calibrate its scores.
HELD_OUT = 5
# Of the imputer: the share of values held out, and how few are none; rows looked at, and latents weighed for each;
# steps between two looks, and looks without a gain after which training ends.
SHARE, FEWEST, LOOKED_AT, WEIGHED, LOOK, PATIENCE = 0.1, 20, 500, 20, 50, 16


class _Saved(BaseEstimator):
    """An estimator whose Keras models are pickled as .keras files, which run no code when they are read."""

    #: attributes that hold Keras models
    _models: tuple[str, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        for name in self._models:
            if isinstance(state.get(name), keras.Model):
                with tempfile.TemporaryDirectory() as folder:
                    state[name].save(Path(folder) / "model.keras")
                    state[name] = (Path(folder) / "model.keras").read_bytes()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name in self._models:
            if isinstance(state.get(name), bytes):
                with tempfile.TemporaryDirectory() as folder:
                    (Path(folder) / "model.keras").write_bytes(state[name])
                    state[name] = keras.saving.load_model(Path(folder) / "model.keras")
        super().__setstate__(state)

    def _rows(self, x: Any, reset: bool = False, missing: bool = False) -> np.ndarray:
        if not reset:
            check_is_fitted(self)
        found: Any = validate_data(self, x, reset=reset, dtype=[np.float64, np.float32],
                                   ensure_min_samples=2 if reset else 1,
                                   ensure_all_finite="allow-nan" if missing else True)  # fmt: skip
        return found


def _integer(random_state: Union[int, np.random.RandomState, None]) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))


class AnomalyDetector(OutlierMixin, _Saved):
    """Finds unusual rows, with p-values.

    Rows equal to fitted ones keep the scores that they had in the fit, so that `predict` of these is `fit_predict`; if
    model="auto" by the part of it that left them out, so that it is as good as that of new rows.

    Args:
      model: "auto", the detector of `pae_zoo.anomaly.Detector`; or one of `MODELS`, which is trained on standardised
        columns and whose scores are combined, with a fifth of the rows held out for the calibration.
      contamination: the share of usual rows that `predict` may call unusual, above 0 and at most 0.5: the threshold is
        this quantile of the scores of rows by fits that have not seen them.
      latent_dim, hidden_units, epochs: of a model by name; latent_dim 0 takes a third of the columns, at most 16.
      random_state: an integer, a `RandomState`, or None.

    Attributes:
      offset_: `decision_function` is `score_samples` less this.
      decision_scores_, labels_, threshold_: as PyOD has them: scores of the fitted rows, higher where more unusual, 1
        where unusual and else 0, and the threshold of the scores.

    Examples:
      >>> import numpy as np
      >>> table = np.random.default_rng(0).normal(size=(200, 3))
      >>> detector = AnomalyDetector(random_state=0).fit(table)
      >>> detector.predict([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
      array([ 1, -1])
    """

    _models = ("model_",)

    def __init__(self, model: str = "auto", contamination: float = 0.1, latent_dim: int = 0,
                 hidden_units: tuple[int, ...] = (64, 64), epochs: int = 50,
                 random_state: Union[int, np.random.RandomState, None] = None) -> None:
        self.model, self.contamination = model, contamination
        self.latent_dim, self.hidden_units, self.epochs = latent_dim, hidden_units, epochs
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "AnomalyDetector":
        """Fits to rows X (n, d) of usual data, of which some may be unusual; y is not looked at."""
        x = self._rows(X, reset=True)
        if not 0.0 < self.contamination <= 0.5:
            raise UserError(f"contamination is a share above 0 and at most 0.5; received {self.contamination}.")
        if self.model == "auto":
            self.model_ = anomaly.Detector(x.shape[1], seed=_integer(self.random_state)).learn(x)
            held_out = self.model_.learned_scores()
        else:
            held_out = self._fit_model(x)
        self._fitted = dict(zip(_digests(x), held_out.tolist()))
        self.threshold_ = float(np.quantile(held_out, 1.0 - self.contamination))
        self.offset_ = -self.threshold_
        self.decision_scores_ = held_out
        self.labels_ = (held_out > self.threshold_).astype(int)
        return self

    def _fit_model(self, x: np.ndarray) -> np.ndarray:
        if self.model not in MODELS:
            raise unknown("model", self.model, ("auto", *MODELS))
        seed = _integer(self.random_state)
        order = np.random.default_rng(seed).permutation(len(x))
        count = max(len(x) // HELD_OUT, 1)
        self.centre_, spread = x[order[count:]].mean(axis=0), x[order[count:]].std(axis=0)
        self.scale_ = np.where(spread > 0, spread, 1.0)
        self.model_ = _model(self.model, x.shape[1], self.latent_dim, self.hidden_units, seed)
        _train(self.model_, self._standardised(x[order[count:]]), self.epochs)
        scores = self.scores_of(x)
        self.combined_ = anomaly.Combined({name: one[order[:count]] for name, one in scores.items()})
        return self.combined_.score(scores).scores

    def _standardised(self, x: np.ndarray) -> np.ndarray:
        return ((x - self.centre_) / self.scale_).astype(np.float32)

    def scores_of(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the scores of the model by their names, each (n,), of rows x (n, d); of a model by name alone."""
        return {name: np.asarray(one) for name, one in self.model_.ood_scores(self._standardised(x)).items()}

    def _score(self, X: Any) -> anomaly.Scores:
        x = self._rows(X)
        # A score that equals one of the calibration by all but rounding would fall on either side of it.
        known = np.array([self._fitted.get(digest, np.nan) for digest in _digests(x)])
        fresh, auto = np.isnan(known), self.model == "auto"
        pvalues = anomaly.pvalues(known, self.decision_scores_ if auto else self.combined_.calibration)
        if fresh.any():
            found = self.model_.score(x[fresh]) if auto else self.combined_.score(self.scores_of(x[fresh]))
            known[fresh], pvalues[fresh] = found.scores, found.pvalues
        return anomaly.Scores(known, pvalues, {})

    def score_samples(self, X: Any) -> np.ndarray:
        """Returns the negative scores (n,) of rows X (n, d): the lower the more unusual, as scikit-learn has it."""
        return -np.asarray(self._score(X).scores, np.float64)

    def decision_function(self, X: Any) -> np.ndarray:
        """Returns `score_samples` less `offset_`, (n,): negative where unusual."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Returns 1 for each row of X (n, d) that is usual and -1 for each that is not, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def fit_predict(self, X: Any, y: Any = None, **kwargs: Any) -> np.ndarray:
        """Fits to X (n, d) and returns 1 or -1 for each of its rows, by fits that have not seen it."""
        return np.where(self.fit(X).labels_ == 1, -1, 1)

    def pvalues(self, X: Any) -> np.ndarray:
        """Returns conformal p-values (n,) of rows X (n, d)."""
        return self._score(X).pvalues

    def explain(self, X: Any) -> np.ndarray:
        """Returns what each column adds to the scores of rows X (n, d), nats, (n, d); of model="auto" alone."""
        x = self._rows(X)
        if self.model != "auto":
            raise NotImplementedError(f"model={self.model!r} has no explanation by columns; take model='auto'.")
        return self.model_.explain(x)


class DensityEstimator(DensityMixin, _Saved):
    """A density of rows by the names of `pae_zoo.densities`: mixtures, flows, both, or flow matching.

    Args:
      density: one of `pae_zoo.densities.NAMES`.
      components: of a mixture; 0 chooses their number on held-out rows.
      random_state: an integer, a `RandomState`, or None.

    Examples:
      >>> import numpy as np
      >>> table = np.random.default_rng(0).normal(size=(200, 2))
      >>> density = DensityEstimator("student_mixture", random_state=0).fit(table)
      >>> density.sample(5).shape, bool(-3.2 < density.score(table) / 200 < -2.6)
      ((5, 2), True)
    """

    _models = ("density_",)

    def __init__(self, density: str = "mixture_flow", components: int = 0,
                 random_state: Union[int, np.random.RandomState, None] = None) -> None:
        self.density, self.components, self.random_state = density, components, random_state

    def fit(self, X: Any, y: Any = None) -> "DensityEstimator":
        """Fits to rows X (n, d); y is not looked at."""
        x = self._rows(X, reset=True)
        options: dict[str, Any] = {"components": self.components} if self.components else {}
        self.density_ = densities.fit(x.astype(np.float32), self.density, seed=_integer(self.random_state), **options)
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Returns log p of rows X (n, d), nats, (n,)."""
        return np.asarray(self.density_.log_prob(self._rows(X).astype(np.float32)), np.float64)

    def score(self, X: Any, y: Any = None) -> float:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns the sum of log p over rows X (n, d), nats, as scikit-learn's KernelDensity does."""
        return float(np.sum(self.score_samples(X)))

    def sample(self, n_samples: int = 1, random_state: Union[int, np.random.RandomState, None] = None) -> np.ndarray:
        """Draws rows, (n_samples, d)."""
        check_is_fitted(self)
        seed = _integer(self.random_state if random_state is None else random_state)
        return np.asarray(self.density_.sample(n_samples, seed=(seed, 0)))


class LatentTransformer(TransformerMixin, _Saved):
    """The latents of rows by an autoencoder of the zoo, on standardised columns.

    Args:
      model: one of `MODELS`.
      latent_dim, hidden_units, epochs: of the model; latent_dim 0 takes a third of the columns, at most 16.
      random_state: an integer, a `RandomState`, or None.
    """

    _models = ("model_",)

    def __init__(self, model: str = "vae", latent_dim: int = 2, hidden_units: tuple[int, ...] = (64, 64),
                 epochs: int = 50, random_state: Union[int, np.random.RandomState, None] = None) -> None:
        self.model, self.latent_dim, self.hidden_units, self.epochs = model, latent_dim, hidden_units, epochs
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "LatentTransformer":
        """Trains the model on rows X (n, d); y is not looked at."""
        x = self._rows(X, reset=True)
        if self.model not in MODELS:
            raise unknown("model", self.model, MODELS)
        self.centre_, spread = x.mean(axis=0), x.std(axis=0)
        self.scale_ = np.where(spread > 0, spread, 1.0)
        self.model_ = _model(self.model, x.shape[1], self.latent_dim, self.hidden_units, _integer(self.random_state))
        self._n_features_out = int(self.model_.latent_dim)
        _train(self.model_, ((x - self.centre_) / self.scale_).astype(np.float32), self.epochs)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Returns the means of the latents of rows X (n, d), (n, K)."""
        rows = self._rows(X)
        x = ((rows - self.centre_) / self.scale_).astype(np.float32)
        return np.asarray(self.model_.encode(tf.constant(x)).mean(), rows.dtype)

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Returns the rows (n, d) that latents X (n, K) are decoded to."""
        check_is_fitted(self)
        decoded = self.model_.decode_mean(tf.constant(np.asarray(X), tf.float32))
        return np.asarray(decoded, np.float64) * self.scale_ + self.centre_


class Imputer(TransformerMixin, _Saved):
    """Fills in what is missing in rows, NaN there, by a variational autoencoder that was trained on such rows.

    It maximises the bound of Mattei & Frellsen (arXiv 1812.02633, eq. 4) on standardised columns; what is filled in is
    the mean of the missing values given those that were seen, or a draw of them. Values must be missing at random:
    whether one is may depend on those that were seen alone. A tenth of the values is held out: when their error falls
    no more, training ends with the best weights, and the noise is widened, where it is too narrow, until the held-out
    values lie as far from their means as stated.

    Args:
      model: one of `IMPUTING`.
      sample: whether `transform` draws the missing values in place of taking their mean.
      latent_dim, hidden_units: of the model; latent_dim 0 takes a third of the columns, at most 16.
      steps: of its training at most, by Adam at a learning rate that falls from 2e-3 to 0, with 64 rows in each.
      num_proposals: latents that are weighed for each row.
      random_state: an integer, a `RandomState`, or None.

    Attributes:
      n_steps_: steps that its training took.

    Examples:
      >>> import numpy as np
      >>> table = np.random.default_rng(0).normal(size=(200, 1)) + np.zeros(3)
      >>> table[0, 2] = np.nan
      >>> filled = Imputer(latent_dim=1, steps=60, random_state=0).fit_transform(table)
      >>> bool(np.isfinite(filled).all()), bool(np.allclose(filled[0, :2], table[0, :2]))
      (True, True)
    """

    _models = ("model_",)

    def __init__(self, model: str = "vae", sample: bool = False, latent_dim: int = 0,
                 hidden_units: tuple[int, ...] = (128, 128), steps: int = 2000, num_proposals: int = 100,
                 random_state: Union[int, np.random.RandomState, None] = None) -> None:
        self.model, self.sample = model, sample
        self.latent_dim, self.hidden_units, self.steps = latent_dim, hidden_units, steps
        self.num_proposals, self.random_state = num_proposals, random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: Any, y: Any = None) -> "Imputer":
        """Trains the model on rows X (n, d) with NaN where a value is missing; y is not looked at."""
        x = self._rows(X, reset=True, missing=True)
        if self.model not in IMPUTING:
            raise unknown("model", self.model, IMPUTING)
        seen = ~np.isnan(x)
        count = np.maximum(seen.sum(axis=0), 1)
        self.centre_ = np.where(seen, x, 0).sum(axis=0) / count
        spread = np.sqrt((np.where(seen, x - self.centre_, 0) ** 2).sum(axis=0) / count)
        self.scale_ = np.where(spread > 0, spread, 1.0)
        self.seed_ = _integer(self.random_state)
        self.model_ = _model(self.model, x.shape[1], self.latent_dim, self.hidden_units, self.seed_, missing=True,
                             bound="iwae", num_latent_samples=SAMPLES)
        rows = ((x - self.centre_) / self.scale_).astype(np.float32)
        held_out = _HeldOut(self.model_, rows, self.seed_)
        kept = held_out.rows_without
        self.model_.adapt(kept)
        self.model_.adapted.assign(1)
        # Adam moves a weight by the learning rate at most, and noise far below the columns' own would not be reached.
        self.model_.component.log_variance.assign(LOG_VARIANCE)
        size = min(BATCH, len(kept))
        looked_at = np.tile(kept, (-(-LOOK * size // len(kept)), 1))
        steps = -(-len(looked_at) // size)
        callbacks: list[Any] = []
        if held_out.count:
            callbacks = [held_out, keras.callbacks.EarlyStopping(held_out.NAME, patience=PATIENCE, mode="min",
                                                                 restore_best_weights=True)]  # fmt: skip
        rate: Any = keras.optimizers.schedules.CosineDecay(RATE, max(self.steps, steps))
        # The loop is short: compiling it by XLA would take longer than it saves.
        self.model_.compile(keras.optimizers.Adam(rate), jit_compile=False, steps_per_execution=steps)
        history = self.model_.fit(looked_at, epochs=max(1, round(self.steps / steps)), batch_size=size, verbose=0,
                                  callbacks=callbacks)
        self.n_steps_ = steps * len(history.epoch)
        if held_out.count:
            held_out.widen()
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Returns rows X (n, d) with what is missing filled in, (n, d); what was seen is as it was."""
        return self._filled(X)[0]

    def transform_with_std(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Returns `transform` and the std of each value given those that were seen, 0 of these, both (n, d)."""
        return self._filled(X)

    def draw(self, X: Any, num_samples: int, random_state: Union[int, np.random.RandomState, None] = None
             ) -> np.ndarray:  # fmt: skip
        """Returns draws of rows X (n, d) whose missing values are filled in, (num_samples, n, d)."""
        seed = self.seed_ if random_state is None else _integer(random_state)
        x = self._rows(X, missing=True)
        found = [np.asarray(self.model_.impute(part, num_samples, (seed, number), self.num_proposals))
                 for number, part in enumerate(self._parts(x))]  # fmt: skip
        values = np.concatenate(found, axis=1) * self.scale_ + self.centre_
        return np.where(np.isnan(x), values, x)

    def _filled(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        x = self._rows(X, missing=True)
        parts = [self.model_.impute_mean(part, (self.seed_, number), self.num_proposals)
                 for number, part in enumerate(self._parts(x))]  # fmt: skip
        mean, std = (np.concatenate([np.asarray(one[which], np.float64) for one in parts]) for which in (0, 1))
        filled = np.where(np.isnan(x), mean * self.scale_ + self.centre_, x)
        if self.sample:
            filled = self.draw(X, 1)[0]
        return filled, std * self.scale_

    def _parts(self, x: np.ndarray) -> Iterator[tf.Tensor]:
        rows = ((x - self.centre_) / self.scale_).astype(np.float32)
        for start in range(0, len(rows), ROWS):
            yield tf.constant(rows[start : start + ROWS])


class _HeldOut(keras.callbacks.Callback):
    """Values that training does not see: their error after each epoch, and the noise that they ask for.

    Args:
      model: of which `impute_mean` fills in rows.
      rows: (n, d), standardised, NaN where a value is missing.
      seed: of the choice, and of the draws.
    """

    NAME = "held_out"

    def __init__(self, model: Any, rows: np.ndarray, seed: int) -> None:
        super().__init__()
        generator = np.random.default_rng(seed)
        hidden = ~np.isnan(rows) & (generator.random(rows.shape) < SHARE)
        hidden &= np.sum(hidden, axis=0) < np.sum(~np.isnan(rows), axis=0)  # a column keeps one
        if hidden.sum() < FEWEST:
            hidden[:] = False
        self.rows_without = np.where(hidden, np.float32(np.nan), rows)
        chosen = generator.permutation(np.flatnonzero(hidden.any(axis=1)))[:LOOKED_AT]
        self.hidden = hidden[chosen]
        self.count, self.truth = int(self.hidden.sum()), rows[chosen][self.hidden]
        self.found = tf.function(lambda: model.impute_mean(tf.constant(self.rows_without[chosen]), (seed, 0), WEIGHED),
                                 autograph=False)  # fmt: skip
        self.noise = model.component.log_variance

    def _moments(self) -> tuple[np.ndarray, np.ndarray]:
        mean, std = (np.asarray(one, np.float64)[self.hidden] for one in self.found())
        return mean, std

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs[self.NAME] = float(np.sqrt(np.mean((self._moments()[0] - self.truth) ** 2)))

    def widen(self) -> None:
        """Sets the log variance of the noise so that held-out errors have the square that is stated, or leaves it."""
        mean, std = self._moments()
        squares, before = (mean - self.truth) ** 2, float(np.mean(self.noise))
        of_latents = np.maximum(std**2 - np.exp(before), 0.0)

        def excess(log_variance: float) -> float:
            return float(np.mean(squares / (of_latents + np.exp(log_variance)))) - 1.0

        if excess(before) > 0:
            wider = optimize.brentq(excess, before, before + 20.0)
            self.noise.assign(np.full(self.noise.shape, wider, np.float32))


def _digests(x: np.ndarray) -> list[bytes]:
    """Returns a digest of each row of x (n, d)."""
    rows = np.ascontiguousarray(x, np.float64) + 0.0  # -0 is 0
    return [hashlib.blake2b(row.tobytes(), digest_size=12).digest() for row in rows]


def _model(name: str, num_columns: int, latent_dim: int, hidden_units: tuple[int, ...], seed: int,
           missing: bool = False, **options: Any) -> Any:
    latent_dim = latent_dim or min(max(num_columns // 3, 1), 16)
    shape, module = (num_columns,), models.find(name)
    shared: dict[str, Any] = dict(latent_dim=latent_dim, hidden_units=tuple(hidden_units), seed=seed)
    encoder = networks.build_encoder("mlp", shape, missing=missing, **shared)
    return module.MODEL(encoder, networks.build_decoder("mlp", shape, **shared), seed=seed, **options)


def _train(model: Any, x: np.ndarray, epochs: int) -> None:
    model.compile("adam")
    model.fit(x, epochs=epochs, batch_size=min(128, len(x)), verbose=0)
