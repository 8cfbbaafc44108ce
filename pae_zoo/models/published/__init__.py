"""Models that imitate published code, faults included: subclasses that override a method or two of the model itself.

They are found by name as all models are, but stand in no list of models.
"""

from types import ModuleType

from pae_zoo.models.published import savae

#: name -> module, with `MODEL`, `HParams` and a docstring
PUBLISHED: dict[str, ModuleType] = {"savae_published": savae}
