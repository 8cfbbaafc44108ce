"""Values that are missing in tables and arrays: NaN for a model that sees the mask, refused for others."""

import numpy as np
import pytest
import tensorflow as tf

from pae_zoo import data
from pae_zoo.core.errors import UserError
from pae_zoo.data import build_chain, tables

LINES = [f"{i % 7}.5,{'' if i % 3 == 0 else i % 5},{('red', 'blue', '')[i % 3]},{'NA' if i < 40 else i % 2}"
         for i in range(60)]  # fmt: skip


@pytest.fixture
def path(tmp_path):
    (tmp_path / "t.csv").write_text("\n".join(["a,b,colour,late", *LINES, ""]), encoding="utf-8")
    return str(tmp_path / "t.csv")


def test_empty_cells_are_nan(path):
    """In all columns of a category; a column whose first cells are empty is told by its later ones."""
    loaded = data.load(path, missing="mask")
    assert loaded.table.outputs == ["a", "b", "colour=blue", "colour=red", "late"]
    x = np.concatenate([loaded.train.x, loaded.valid.x, loaded.test.x])
    assert not np.isnan(x[:, 0]).any() and np.isnan(x[:, 1]).sum() == 20 and np.isnan(x[:, 4]).sum() == 40
    np.testing.assert_array_equal(np.isnan(x[:, 2]), np.isnan(x[:, 3]))
    assert np.isnan(x[:, 2]).sum() == 20 and np.nansum(x[:, 2:4]) == 40


def test_another_table_may_have_other_gaps(path, tmp_path):
    loaded = data.load(path, missing="mask")
    (tmp_path / "u.csv").write_text("colour,late,b,a\n,1,,\ngreen,,2,3\n", encoding="utf-8")
    table = tables.table_of("csv", tmp_path / "u.csv", tables.TableOptions(missing="mask"), loaded.table)
    encoder = tables.Encoder(table, loaded.table)
    nan = np.nan
    np.testing.assert_array_equal(encoder.encode(np.arange(2)), [[nan, nan, nan, nan, 1], [3, 2, 0, 0, nan]])
    assert encoder.unseen == {"colour": 1}


def test_gaps_are_refused_unless_asked_for(path, tmp_path):
    with pytest.raises(UserError, match="line 2: column 'b' is empty; .*--missing=mask"):
        data.load(path)
    x = np.array([[0.5, np.nan], [0.1, 0.2], [0.3, 0.4]] * 5, np.float32)
    np.save(tmp_path / "x.npy", x)
    for source in (data.from_arrays, lambda x, **kw: data.load(str(tmp_path / "x.npy"), **kw)):
        with pytest.raises(UserError, match="NaN or infinity, first in row 0; .*missing='mask'"):
            source(x)
        assert np.isnan(source(x, missing="mask").train.x).any()
    x[1, 0] = np.inf
    with pytest.raises(UserError, match="holds infinity, first in row 1"):
        data.from_arrays(x, missing="mask")


@pytest.mark.parametrize("step", ["centre", "standardise", "robust", "minmax", "quantile", "log1p", "logit"])
def test_preprocessing_passes_gaps_over(step):
    """Statistics are those of the values that were seen, column by column, and so is the change of density."""
    rng = np.random.default_rng(0)
    x = rng.uniform(0.1, 0.9, (400, 3)).astype(np.float32)
    holes = x.copy()
    holes[rng.random(400) < 0.3, 1] = np.nan
    chain, alone = build_chain([step]), build_chain([step])
    chain.adapt(holes)
    seen = ~np.isnan(holes[:, 1])
    alone.adapt(x[seen])
    y, log_det = chain.forward_and_log_det(tf.constant(holes))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(holes))
    np.testing.assert_allclose(np.array(y)[seen, 1], alone.forward(tf.constant(x[seen]))[:, 1], atol=2e-5)
    own = build_chain([step])
    own.adapt(x[:, [0, 2]])
    np.testing.assert_allclose(np.array(log_det)[~seen], own.log_det(tf.constant(x[:, [0, 2]])).numpy()[~seen],
                               atol=1e-4)
    np.testing.assert_allclose(np.array(chain.inverse(y))[seen], holes[seen], atol=1e-4)


def test_a_value_that_was_never_seen_has_harmless_statistics():
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    x[:, 1] = np.nan
    for step in ("standardise", "robust", "minmax", "quantile"):
        chain = build_chain([step])
        chain.adapt(x)
        assert all(np.isfinite(weight).all() for weight in chain.get_weights())


def test_sets_of_bytes_have_no_gaps():
    with pytest.raises(UserError, match="missing=mask is for tables and arrays"):
        data.load("digits", missing="mask")
