"""Values of Arrow's types are read exactly as they stand."""

from __future__ import annotations

from datetime import time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from trainer.data.read.reader import open_source, read_rows
from trainer.recipe.data import Source

VALUES: dict[str, tuple[Any, list[Any]]] = {
    "float32": (pa.array([0.1, 16777216, 3.4e38, 1e-7], pa.float32()), [0.1, 16777216.0, 3.4e38, 1e-7]),
    "float16": (pa.array(np.array([0.1, 1.5, 65504, 0.333], np.float16)), [0.1, 1.5, 65500.0, 0.333]),
    "float64": (pa.array([0.1, 0.10000000149011612]), [0.1, 0.10000000149011612]),
    "lists": (pa.array([[0.1, None], []], pa.list_(pa.float32())), [[0.1, None], []]),
    "large lists": (pa.array([[0.1], [0.2]], pa.large_list(pa.float32())), [[0.1], [0.2]]),
    "lists of one size": (pa.array([[0.1, 0.2]], pa.list_(pa.float32(), 2)), [[0.1, 0.2]]),
    "objects": (pa.array([{"a": 0.1, "b": [{"c": 0.2}]}]), [{"a": 0.1, "b": [{"c": 0.2}]}]),
    "objects of short floats": (pa.array([{"a": 0.1}], pa.struct([("a", pa.float32())])), [{"a": 0.1}]),
    "maps": (pa.array([[("k", 0.1)]], pa.map_(pa.string(), pa.float32())), [{"k": 0.1}]),
    "categories": (pa.array([0.1, 0.1], pa.float32()).dictionary_encode(), [0.1, 0.1]),
    "seconds": (pa.array([90, 86_403, 0, -90], pa.duration("s")), ["PT1M30S", "P1DT3S", "PT0S", "PT-1M-30S"]),
    "milliseconds": (pa.array([timedelta(milliseconds=1500)], pa.duration("ms")), ["PT1.5S"]),
    "nanoseconds": (pa.array([1_500_000_001], pa.duration("ns")), ["PT1.500000001S"]),
    "intervals": (pa.array([(14, 3, 10**9), (0, 0, 0)], pa.month_day_nano_interval()), ["P14M3DT1S", "PT0S"]),
    "times": (pa.array([time(12, 30), time(1, 2, 3)], pa.time32("s")), ["12:30:00", "01:02:03"]),
    "times in nanoseconds": (pa.array([1, 3_600 * 10**9], pa.time64("ns")), ["00:00:00.000000001", "01:00:00"]),
}


@pytest.mark.parametrize(("column", "expected"), VALUES.values(), ids=VALUES)
def test_values_are_read_as_the_type_of_their_column_has_them(tmp_path: Path, column: Any, expected: list[Any]) -> None:
    path = tmp_path / "x.arrow"
    pyarrow.feather.write_feather(pa.table({"v": column}), path)
    result = [row.value["v"] for row in read_rows(path) if isinstance(row.value, dict)]
    assert [value.isoformat() if isinstance(value, time) else value for value in result] == expected


@pytest.mark.parametrize("name", ["float32", "float16", "seconds", "nanoseconds", "times in nanoseconds", "lists"])
def test_a_parquet_file_and_a_saved_data_set_have_the_same_values(tmp_path: Path, name: str) -> None:
    import datasets

    column, expected = VALUES[name]
    table = pa.table({"v": column})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    datasets.Dataset(table).save_to_disk(str(tmp_path / "saved"))
    for index in ("x.parquet", "saved"):
        ((_, rows),) = open_source(Source(path=str(tmp_path / index)))
        assert [row.value["v"] for row in rows if isinstance(row.value, dict)] == expected
