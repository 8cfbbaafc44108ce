"""Models that imitate published code, faults included: subclasses that override a method or two of the model itself.

They are found by name as all models are, but stand in no list of models.
"""

from types import ModuleType

from pae_zoo.models.published import bbb_ae, iaf, lae, savae, vlae

#: name -> module, with `MODEL`, `HParams` and a docstring
PUBLISHED: dict[str, ModuleType] = {
    "bbb_ae_published": bbb_ae, "iaf_published": iaf, "lae_published": lae, "savae_published": savae,
    "vlae_published": vlae,
}  # fmt: skip
