"""What splits are called: train, test and valid in any usual spelling."""

import re
from typing import Optional, Sequence

SPLITS = ("train", "test", "valid")
#: pairs of a further name and one of `SPLITS`
Own = Sequence[tuple[str, str]]

_SPELLINGS = (
    ("train", re.compile(r"train(ing)?")),
    ("test", re.compile(r"test(ing)?")),
    ("valid", re.compile(r"val(id(ation)?)?|dev(elopment)?")),
)
_SUFFIX = re.compile(r"[ _.-]*(set|split|data|images?|imgs)$")


def split_of(name: str, own: Own = ()) -> Optional[str]:
    """Returns "train", "test" or "valid" for the name of a folder or an array in any usual spelling, else None.

    `own` has pairs of further names and one of these three.
    """
    if name in dict(own):
        return dict(own)[name]
    plain = _SUFFIX.sub("", name.lower())
    return next((split for split, spelling in _SPELLINGS if spelling.fullmatch(plain)), None)
