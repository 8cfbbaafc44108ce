"""What the type checker is told of TensorFlow Probability, whose names are made when they are first read."""

from typing import Any

from tensorflow_probability import bijectors as bijectors
from tensorflow_probability import distributions as distributions

def __getattr__(name: str) -> Any: ...
