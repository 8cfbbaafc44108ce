"""Real data frames, of pandas and of polars, are the table that a csv file of the same rows is."""

import numpy as np
import pytest

from pae_zoo import data

ROWS = 60


def plain():
    """Columns as lists: numbers, whole ones with gaps, texts with gaps, truth values."""
    rng = np.random.default_rng(0)
    width = rng.normal(size=ROWS).round(3).tolist()
    count = [None if i % 7 == 0 else int(i % 5) for i in range(ROWS)]
    colour = [None if i % 11 == 0 else ("red", "green", "blue")[i % 3] for i in range(ROWS)]
    return {"width": width, "count": count, "colour": colour, "open": [i % 2 == 0 for i in range(ROWS)]}


def by_pandas():
    pandas = pytest.importorskip("pandas")
    found = plain()
    return pandas.DataFrame({"width": found["width"], "count": pandas.array(found["count"], dtype="Int64"),
                             "colour": pandas.Categorical(found["colour"]), "open": found["open"]})


def by_pandas_of_objects():
    return pytest.importorskip("pandas").DataFrame(plain())


def by_polars():
    polars = pytest.importorskip("polars")
    return polars.DataFrame(plain()).with_columns(polars.col("colour").cast(polars.Categorical))


@pytest.mark.parametrize("make", [by_pandas, by_pandas_of_objects, by_polars])
def test_a_frame_is_the_table_of_its_csv(make, tmp_path):
    frame, columns = make(), plain()
    lines = [",".join("" if value is None else str(value) for value in row) for row in zip(*columns.values())]
    (tmp_path / "x.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")
    told = {"missing": "mask", "categorical": ("open",)}
    found, file = data.from_arrays(frame, **told), data.load(f"csv:{tmp_path / 'x.csv'}", **told)
    assert found.event_shape == file.event_shape and found.table.columns == file.table.columns
    for split in ("train", "valid", "test"):
        np.testing.assert_allclose(getattr(found, split).unit(), getattr(file, split).unit(), rtol=1e-6)


@pytest.mark.parametrize("package", ["pandas", "polars"])
def test_estimators_keep_the_names_of_columns(package):
    from pae_zoo.sklearn import DensityEstimator

    frames = pytest.importorskip(package)
    rows = np.random.default_rng(0).normal(size=(40, 2))
    frame = frames.DataFrame({"a": rows[:, 0], "b": rows[:, 1]})
    density = DensityEstimator("gaussian_mixture", components=1, random_state=0).fit(frame)
    assert list(density.feature_names_in_) == ["a", "b"]
    np.testing.assert_allclose(density.score_samples(frame), density.fit(rows).score_samples(rows), rtol=1e-5)
    with pytest.raises(ValueError, match="feature names"):
        density.fit(frame).score_samples(frames.DataFrame({"a": rows[:, 0], "c": rows[:, 1]}))
