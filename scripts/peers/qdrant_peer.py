"""Qdrant's embedded engine (qdrant-edge-py): multi-vectors with MaxSim.

"exact" keeps float16 and scores every document. "turbo 4 bits" keeps quantised tokens beside
them. "pooled" is the two-stage recipe of its manual: documents' mean vectors in a graph bring
candidates, MaxSim orders them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import qdrant_edge as q
from protocol import Documents, Peer, run

PLAIN = {
    "m": 0,
    "ef_construct": 100,
    "full_scan_threshold": 10_000,
    "payload_m": 0,
}  # no graph over multi-vectors: building one takes hours


class QdrantPeer(Peer):
    DISTRIBUTION = "qdrant-edge-py"
    VARIANTS: ClassVar = {"exact": {}, "turbo 4 bits": {"turbo": True}, "pooled": {"pooled": True}}
    SETTINGS: ClassVar = {
        "exact": {"exact": {}},
        "turbo 4 bits": {"rescored": {}, "not rescored": {"rescore": False}},
        "pooled": {"500 scored": {"candidates": 500}, "2000 scored": {"candidates": 2000}},
    }

    def build(
        self, documents: Documents, folder: Path, *, turbo: bool = False, pooled: bool = False
    ) -> None:
        folder.mkdir()
        tokens = q.EdgeVectorParams(
            documents.dim,
            q.Distance.Dot,
            multivector_config=q.MultiVectorConfig(q.MultiVectorComparator.MaxSim),
            datatype=q.VectorStorageDatatype.Float16,
            hnsw_config=q.HnswIndexConfig(**PLAIN),
            quantization_config=q.TurboQuantQuantizationConfig(
                bits=q.TurboQuantBitSize.Bits4, memory=q.Memory.Cached
            )
            if turbo
            else None,
        )
        vectors = {"tokens": tokens}
        if pooled:
            vectors["pooled"] = q.EdgeVectorParams(documents.dim, q.Distance.Cosine)
        shard = q.EdgeShard.create(str(folder), q.EdgeConfig(vectors=vectors))
        for first, last in documents.batches(500):
            points = []
            for i, matrix in enumerate(documents.matrices(first, last), first):
                vector: dict[str, Any] = {"tokens": matrix.astype(np.float32).tolist()}
                if pooled:
                    vector["pooled"] = matrix.astype(np.float32).mean(0).tolist()
                points.append(q.Point(i, vector))
            shard.update(q.UpdateOperation.upsert_points(points))
        shard.optimize()
        shard.flush()
        shard.close()

    def open(self, folder: Path, documents: Documents) -> None:
        self.shard = q.EdgeShard.load(str(folder))

    def search(self, query: np.ndarray[Any, Any], k: int, **setting: Any) -> list[int]:
        return [point.id for point in self.shard.query(self._request(query, k, **setting))]

    def search_batch(
        self, queries: list[np.ndarray[Any, Any]], k: int, **setting: Any
    ) -> list[list[int]]:
        requests = [self._request(query, k, **setting) for query in queries]
        found = self.shard.query_batch(q.QueryBatchRequest(requests))
        return [[point.id for point in row] for row in found]

    def _request(
        self,
        query: np.ndarray[Any, Any],
        k: int,
        *,
        candidates: int | None = None,
        rescore: bool | None = None,
    ) -> Any:
        wanted = q.Query.Nearest(query.tolist(), "tokens")
        prefetches = None
        if candidates:
            mean = q.Query.Nearest(query.mean(0).tolist(), "pooled")
            prefetches = [q.Prefetch(candidates, mean)]
        params = None
        if rescore is not None:
            params = q.SearchParams(quantization=q.QuantizationSearchParams(rescore=rescore))
        return q.QueryRequest(k, query=wanted, prefetches=prefetches, params=params)


if __name__ == "__main__":
    run(QdrantPeer)
