"""A thin TFP bijector around any invertible map of ours, free of TFP's cache."""

from typing import Any, Callable

import tensorflow as tf
import tensorflow_probability as tfp


class _NoCache:
    """Stands where a TFP bijector has its cache, and computes anew each time.

    TFP keeps results by the identity of the input and the equality of bijectors. After a training step it
    would return the former result for the same tensor, and a result found outside a tape has no gradient.
    """

    def __init__(self, bijector: Any = None) -> None:
        self._bijector = bijector

    def __get__(self, bijector, owner=None):
        return _NoCache(bijector)

    def forward(self, x: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._bijector._forward(x, **kwargs)

    def inverse(self, y: tf.Tensor, **kwargs: Any) -> tf.Tensor:
        return self._bijector._inverse(y, **kwargs)

    def forward_attributes(self, x: tf.Tensor, **kwargs: Any) -> dict:
        return {}

    inverse_attributes = forward_attributes


class FlowBijector(tfp.bijectors.Bijector):
    """z = transform(u), for a transform(x, inverse) -> (y, log_det) over the last axis.

    Holds no weights. TFP's own composites (`tfb.Chain`, ...) do keep results, so build them, and this, per use.
    """

    _cache = _NoCache()

    def __init__(self, transform: Callable[..., tuple[tf.Tensor, tf.Tensor]], dtype="float32", name="flow"):
        # Never `self` among the parameters: TFP's hash of them would not end.
        parameters = dict(transform=transform, dtype=dtype, name=name)
        self._transform = transform
        super().__init__(
            forward_min_event_ndims=1, dtype=tf.as_dtype(dtype), validate_args=False, parameters=parameters, name=name
        )

    # Two adapters of one layer must not be equal for the caches of composites.
    def __eq__(self, other):
        return self is other

    def __hash__(self):
        return id(self)

    def _forward(self, x):
        return self._transform(x, inverse=False)[0]

    def _inverse(self, y):
        return self._transform(y, inverse=True)[0]

    def _forward_log_det_jacobian(self, x):
        return self._transform(x, inverse=False)[1]

    def _inverse_log_det_jacobian(self, y):
        return self._transform(y, inverse=True)[1]
