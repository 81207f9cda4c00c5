"""LanceDB: a column of lists of vectors, scored exactly or through IVF-PQ with refinement."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import lancedb
import numpy as np
import pyarrow as pa
from protocol import Documents, Peer, run


class LancePeer(Peer):
    DISTRIBUTION = "lancedb"
    VARIANTS: ClassVar = {"exact": {}, "ivf-pq": {"index": True}}
    SETTINGS: ClassVar = {
        "exact": {"exact": {}},
        "ivf-pq": {"defaults": {}, "40 probes, refined": {"nprobes": 40, "refine": 5}},
    }

    def build(self, documents: Documents, folder: Path, *, index: bool = False) -> None:
        kind = pa.list_(pa.list_(pa.float16(), documents.dim))
        schema = pa.schema([pa.field("position", pa.int64()), pa.field("vector", kind)])

        def rows() -> Iterator[pa.RecordBatch]:
            for first, last in documents.batches(1000):
                flat = pa.array(documents.values(first, last).reshape(-1))
                ends = documents.offsets[first : last + 1] - documents.offsets[first]
                tokens = pa.FixedSizeListArray.from_arrays(flat, documents.dim)
                lists = pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), tokens)
                yield pa.RecordBatch.from_arrays(
                    [pa.array(range(first, last)), lists], schema=schema
                )

        table = lancedb.connect(str(folder)).create_table("documents", rows(), schema=schema)
        if index:  # multi-vectors know the cosine only; the tokens are unit rows
            table.create_index(metric="cosine", vector_column_name="vector", index_type="IVF_PQ")

    def open(self, folder: Path, documents: Documents) -> None:
        self.table = lancedb.connect(str(folder)).open_table("documents")

    def search(
        self, query: np.ndarray[Any, Any], k: int, *, nprobes: int = 0, refine: int = 0
    ) -> list[int]:
        asked = self.table.search(query, vector_column_name="vector").distance_type("cosine")
        if nprobes:
            asked = asked.nprobes(nprobes)
        if refine:
            asked = asked.refine_factor(refine)
        return asked.select(["position", "_distance"]).limit(k).to_arrow()["position"].to_pylist()


if __name__ == "__main__":
    run(LancePeer)
