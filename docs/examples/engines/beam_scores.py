"""A SavedModel over a table of any size by Apache Beam: a parquet file with `row` and `x`, a list of numbers a row.

    python beam_scores.py serving/vae/1 ood_scores rows.parquet scores --runner=DirectRunner

writes a line of JSON for each row: `row` and the outputs of the signature.
"""

import json
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from served import records


class Score(beam.DoFn):
    """Answers to batches of rows; the model is loaded once in each process."""

    def __init__(self, folder, signature):
        self.folder, self.signature = folder, signature

    def process(self, batch):
        rows = [one["x"] for one in batch]
        for found in records(self.folder, self.signature, [one["row"] for one in batch], rows):
            yield json.dumps(found)


if __name__ == "__main__":
    folder, signature, source, target, *options = sys.argv[1:]
    with beam.Pipeline(options=PipelineOptions(options)) as pipeline:
        rows = pipeline | beam.io.ReadFromParquet(source)
        batches = rows | beam.BatchElements(min_batch_size=64, max_batch_size=1024)
        batches | beam.ParDo(Score(folder, signature)) | beam.io.WriteToText(target, file_name_suffix=".jsonl")
