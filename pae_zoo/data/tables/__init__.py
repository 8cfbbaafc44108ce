"""Tables of one's own: csv, parquet and data frames as rows of numbers, and what is kept of them with a run."""

from pae_zoo.data.tables.collecting import Coded, Table
from pae_zoo.data.tables.options import PLAIN, TableOptions
from pae_zoo.data.tables.reading import (
    as_raw,
    is_frame,
    read_csv,
    read_frame,
    read_parquet,
    table_of,
)
from pae_zoo.data.tables.rows import Encoder, TableRows
from pae_zoo.data.tables.schema import Column, Schema

__all__ = ["Coded", "Column", "Encoder", "PLAIN", "Schema", "Table", "TableOptions", "TableRows", "as_raw", "is_frame",
           "read_csv", "read_frame", "read_parquet", "table_of"]  # fmt: skip
