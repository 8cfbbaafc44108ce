"""A Keras callback that keeps the curvature of any network while `fit` trains it, and makes a posterior of it."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import keras
import numpy as np
import tensorflow as tf

from pae_zoo.core import seeds
from pae_zoo.core.errors import UserError, unknown
from pae_zoo.curvature.matrices import gauss_newton, record
from pae_zoo.curvature.network import losses
from pae_zoo.curvature.network.graph import ALL, Graph
from pae_zoo.curvature.posteriors import build

EMA, ACCUMULATE = "ema", "accumulate"
_NAMED = ("structure", "method", "likelihood", "layers")


class LaplaceCallback(keras.callbacks.Callback):
    """Keeps an estimate h of the GGN of the whole data while `fit` trains, and makes a weight posterior of it.

        laplace = curvature.LaplaceCallback(x, y)
        model.fit(x, y, callbacks=[laplace])
        q = laplace.posterior()

    After every `every`-th batch the curvature g of `subset` data, drawn anew and scaled up to all N, moves it:

        ema         h <- m h + (1 - m) g, divided by 1 - m^t when it is used
        accumulate  h <- m h + g, as the online Laplacian autoencoder does (Miani et al., arXiv 2206.15078)

    What Keras minimises must be the negative log of a likelihood: mean squared error (Gaussian, sigma = 1 in h), binary
    or categorical cross-entropy, of logits or behind a sigmoid or softmax at the end; of another loss name the
    likelihood. The logs of an epoch get `curvature_sum`, the sum of the diagonal of h where it has one, and
    `curvature_s`, the seconds it took. A step of it is compiled once.

    Args:
      x: data (n, *event), an array.
      y: targets, an array; None: x, as autoencoders have it.
      likelihood: None: that of the model's loss; else as in `ggn`.
      structure, method, layers, options: as in `ggn`; method None: "mc" where the structure has it, else "exact".
      every: batches from one refresh to the next.
      subset: data of a refresh.
      update, memory_factor: "ema" or "accumulate", and m.
      final: whether one pass over all of x, at the weights that training ends with, replaces h.
      path: .npz file of h, written after each epoch and at the end, whole or not at all.
      seed: pair of integers.

    Raises UserError, when training begins, where data, loss, layers and likelihood do not fit together.
    """

    def __init__(self, x: Any, y: Any = None, *, likelihood: Any = None, structure: str = "diag",
                 method: Optional[str] = None, layers: Union[str, Sequence[str]] = ALL, every: int = 1,
                 subset: int = 32, update: str = EMA, memory_factor: float = 0.99, final: bool = False,
                 path: Optional[Union[str, Path]] = None, seed: seeds.Seed = (0, 0), **options: Any):
        super().__init__()
        if update not in (EMA, ACCUMULATE):
            raise unknown("update", update, (EMA, ACCUMULATE))
        if not (0 <= memory_factor < 1 and every >= 1 and subset >= 1):
            raise UserError("memory_factor lies in [0, 1), every and subset are at least 1; received "
                            f"{memory_factor}, {every} and {subset}.")
        self.x, self.y = np.asarray(x), np.asarray(x if y is None else y)
        if len(self.x) != len(self.y) or not len(self.x):
            raise UserError(f"x and y need equally many data, at least one; received {len(self.x)} and {len(self.y)}.")
        if method is None:
            known = gauss_newton.METHODS.get(structure, ())
            method = gauss_newton.MC if gauss_newton.MC in known else gauss_newton.EXACT
        self.options = {**options, "structure": structure, "method": method, "layers": layers}
        self.likelihood, self.every, self.subset = likelihood, int(every), min(int(subset), len(self.x))
        self.update, self.memory_factor = update, float(memory_factor)
        self.final, self.path, self.seed = bool(final), path, seeds.as_seed(seed)
        self._graph: Optional[Graph] = None
        #: the estimate h as `ggn` gives it, refreshes so far and seconds they took
        self.curvature, self.refreshes, self.seconds = None, 0, 0.0
        # Whether the estimate is that of all data, and not one that refreshes have moved.
        self._is_whole = False

    @property
    def graph(self) -> Graph:
        """The network; raises UserError before training has begun."""
        if self._graph is None:
            raise UserError("Training has not begun, so that the network is not known yet: give this to `fit` first.")
        return self._graph

    # ---- while Keras trains ------------------------------------------------------------------------

    def on_train_begin(self, logs: Optional[dict[str, Any]] = None) -> None:
        model: Any = self.model
        self._graph, likelihood = losses.of_model(model, self.likelihood)
        self.options["likelihood"] = likelihood
        seed = None if self.options["structure"] != "low_rank" and self.options["method"] == "exact" else self.seed
        options = {name: value for name, value in self.options.items() if name not in _NAMED}
        structure, method, likelihood, layers = (self.options[name] for name in _NAMED)
        gauss_newton.check(self.graph, structure, method, likelihood, layers, seed, options)
        self._check_data()
        self._batches = 0

    def _check_data(self) -> None:
        """Raises UserError where x does not fit the network, or y the likelihood."""
        event = tuple(self.graph.models[0].input_shape[1:])
        if len(event) != self.x.ndim - 1 or any(n not in (None, m) for n, m in zip(event, self.x.shape[1:])):
            raise UserError(f"The network takes data of shape {event}; received x of shape {self.x.shape[1:]}.")
        kind, y = self.options["likelihood"], self.y
        if not isinstance(kind, str):
            return
        output = self._forward(self.x[:1])
        shape, size = tuple(output.shape[1:]), output[0].numpy().size
        numbers = kind == "categorical" and y[0].size * shape[-1] == size
        if not numbers and y[0].size != size:
            raise UserError(f"The network gives {shape} for each datum; received y of shape {y.shape[1:]}.")
        if numbers and (np.any(y != np.round(y)) or y.min() < 0 or y.max() >= shape[-1]):
            raise UserError(f"Numbers of {shape[-1]} classes are integers from 0 to {shape[-1] - 1}; received y from "
                            f"{y.min():g} to {y.max():g}.")
        if kind == "bernoulli" and (y.min() < 0 or y.max() > 1):
            raise UserError(f"The likelihood bernoulli takes y from 0 to 1; received {y.min():g} to {y.max():g}.")

    def _forward(self, x: np.ndarray) -> tf.Tensor:
        return record.forward(self.graph, self.graph.cast(x), self.options.get("fallback", False)).output

    def on_train_batch_end(self, batch: int, logs: Optional[dict[str, Any]] = None) -> None:
        self._batches += 1
        if self._batches % self.every == 0:
            self.refresh()

    def on_epoch_end(self, epoch: int, logs: Optional[dict[str, Any]] = None) -> None:
        if logs is not None and self.refreshes:
            if self.options["structure"] == "diag":
                logs["curvature_sum"] = float(tf.reduce_sum(self.estimate()))
            logs["curvature_s"] = self.seconds
        if self.path is not None and self.refreshes:
            self.posterior(optimise=False).save(self.path)

    def on_train_end(self, logs: Optional[dict[str, Any]] = None) -> None:
        if self.final:
            self.fit_all()
            if self.path is not None:
                self.posterior(optimise=False).save(self.path)

    def refresh(self) -> None:
        """Moves h by the curvature of `subset` data drawn anew, at the weights as they are."""
        start = time.monotonic()
        seed = seeds.fold_in(self.seed, self.refreshes)
        rows = np.random.default_rng([*np.abs(self.seed.numpy()), self.refreshes]).integers(0, len(self.x), self.subset)
        found = self._ggn(self.x[rows], seed)
        gain = (1.0 - self.memory_factor if self.update == EMA else 1.0) * len(self.x) / self.subset
        if self._is_whole:  # training goes on: the estimate begins anew
            self.curvature, self.refreshes, self._is_whole = None, 0, False
        old = self.curvature
        self.curvature = (build.add(found, found, gain, 0.0) if old is None else
                          build.add(old, found, self.memory_factor, gain))
        self.refreshes += 1
        self.seconds += time.monotonic() - start

    def fit_all(self, batch_size: int = 256) -> None:
        """Replaces h by the curvature of all data at the weights as they are, batch by batch."""
        total = None
        for number, start in enumerate(range(0, len(self.x), batch_size)):
            seed = seeds.fold_in(seeds.stream(self.seed, "curvature/start"), number)
            found = self._ggn(self.x[start : start + batch_size], seed)
            total = found if total is None else build.add(total, found)
        self.curvature, self._is_whole, self.refreshes = total, True, max(self.refreshes, 1)

    def _ggn(self, x: np.ndarray, seed):
        # Sketches add up only where they are of one seed.
        seed = self.seed if self.options["structure"] == "low_rank" else seed
        return gauss_newton.ggn(self.graph, x, seed=seed, **self.options)

    # ---- afterwards --------------------------------------------------------------------------------

    def estimate(self) -> Any:
        """Returns h for the whole data, as `ggn` gives it; raises UserError before the first refresh."""
        if self.curvature is None:
            raise UserError(f"There was no refresh yet: it comes after every {self.every} batches. Train longer, lower "
                            "`every`, or call fit_all().")
        if self.update == ACCUMULATE or self._is_whole:
            return self.curvature
        weight = 1.0 / (1.0 - self.memory_factor**self.refreshes)
        return build.add(self.curvature, self.curvature, weight, 0.0)

    def posterior(self, optimise: bool = True, batch_size: int = 256, **scales: Any) -> build.WeightPosterior:
        """Returns q(theta) around the weights as they are, with the estimate as its curvature.

        With `optimise`, prior precision and, for a Gaussian, sigma^2 maximise the evidence on (x, y); else they are 1,
        or `scales` (prior_precision, noise_variance, kappa).
        """
        found = build.build(self.options["structure"], self.graph, self.estimate(), self.options["layers"])
        if scales:
            found.assign_scales(**scales)
        if optimise:
            found.optimise(**self._evidence(batch_size), learn_noise=self.options["likelihood"] == "gaussian")
        return found

    def _evidence(self, batch_size: int) -> dict[str, Any]:
        """Returns how well the network explains (x, y), as `WeightPosterior.optimise` takes it."""
        outputs = np.concatenate([
            self._forward(self.x[i : i + batch_size]).numpy().astype(np.float64)
            for i in range(0, len(self.x), batch_size)
        ])
        kind = self.options["likelihood"]
        y = np.asarray(self.y, np.float64)
        if kind == "gaussian":
            return {"sse": float(np.square(outputs - y.reshape(outputs.shape)).sum()), "num_values": outputs.size}
        if kind == "bernoulli":
            y = y.reshape(outputs.shape)
            return {"log_likelihood": float((y * outputs - np.logaddexp(0.0, outputs)).sum())}
        if kind == "categorical":
            normalised = outputs - np.logaddexp.reduce(outputs, axis=-1, keepdims=True)
            if y.size * outputs.shape[-1] == outputs.size:  # class numbers
                y = np.eye(outputs.shape[-1])[y.astype(int).reshape(outputs.shape[:-1])]
            return {"log_likelihood": float((y * normalised).sum())}
        raise UserError("The evidence is known for the likelihoods gaussian, bernoulli and categorical; received a "
                        f"{type(kind).__name__}. Take optimise=False and call optimise on the posterior yourself.")
