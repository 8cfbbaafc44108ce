"""Sets that scikit-learn carries, so that they need no file."""

from typing import Any

import numpy as np

from pae_zoo.data import tables
from pae_zoo.data.rows import ArrayRows, Raw

_SOURCE = "scikit-learn"


def digits(seed: int) -> Raw:
    """Returns 1,797 handwritten digits, (8, 8, 1), k / 16."""
    from sklearn import datasets

    pixels, labels = datasets.load_digits(return_X_y=True)
    x = (np.reshape(pixels, (-1, 8, 8, 1)) / 16.0).astype(np.float32)
    return Raw(ArrayRows(x), np.asarray(labels, np.int64), source=_SOURCE)


def breast_cancer(seed: int) -> Raw:
    """Returns 569 rows of 30 measures of tumours as a table with labels benign and malignant."""
    from sklearn import datasets

    return _table(datasets.load_breast_cancer())


def wine(seed: int) -> Raw:
    """Returns 178 rows of 13 measures of wines as a table with labels of three growers."""
    from sklearn import datasets

    return _table(datasets.load_wine())


def _table(found: Any) -> Raw:
    """A table as a csv file of its columns and a last one called class gives it."""
    values = np.asarray(found.data, np.float32)
    columns: dict[str, Any] = {str(name): values[:, place] for place, name in enumerate(found.feature_names)}
    labels = tables.Coded(np.asarray(found.target, np.int32), list(map(str, found.target_names)))
    return tables.as_raw(tables.Table(columns, labels, None, _SOURCE, []), tables.TableOptions(label_column="class"))
