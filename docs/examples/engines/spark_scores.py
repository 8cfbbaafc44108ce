"""A SavedModel over a table of any size by Spark: a parquet file with `row` and `x`, a list of numbers a row.

    spark-submit --py-files=served.py spark_scores.py serving/vae/1 ood_scores rows.parquet scores.parquet

writes `row` and the outputs of the signature. Batches have at most spark.sql.execution.arrow.maxRecordsPerBatch rows.
"""

import sys

import pandas
import tensorflow as tf
from pyspark.sql import SparkSession
from served import answers

folder, signature, source, target = sys.argv[1:]


def columns_of(folder):
    """Returns the columns that a table of answers has, in Spark's words."""
    outputs = tf.saved_model.load(folder).signatures[signature].structured_outputs
    kinds = {name: "double" if len(spec.shape) == 1 else "array<double>" for name, spec in outputs.items()}
    return ", ".join(f"`{name}` {kind}" for name, kind in {"row": "bigint", **kinds}.items())


def scored(batches):
    """Yields the answers to tables of rows; runs in the workers."""
    for batch in batches:
        found = answers(folder, signature, batch["x"].tolist())
        values = {name: value if value.ndim == 1 else list(value.reshape(len(value), -1))
                  for name, value in found.items()}
        yield pandas.DataFrame({"row": batch["row"], **values})


if __name__ == "__main__":
    spark = SparkSession.builder.appName("scores").getOrCreate()
    table = spark.read.parquet(source)
    table.mapInPandas(scored, columns_of(folder)).write.parquet(target)
    print("rows:", spark.read.parquet(target).count())
    spark.stop()
