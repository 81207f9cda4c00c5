"""TACHIOM: token-aware clustering, product quantisation and a graph over the centroids (Rust).

It wants to know of which word each token is; the benchmark gives it the tokeniser's ids where the
data have them, and near neighbours' numbers where they have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from protocol import Documents, Peer, run
from tachiom import Tachiom

NONE = np.iinfo(np.uint32).max  # pads answers


class TachiomPeer(Peer):
    DISTRIBUTION = "tachiom"
    VARIANTS: ClassVar = {"pq32": {}}
    SETTINGS: ClassVar = {
        "pq32": {
            "defaults": {},
            "40 centroids, 1000 scored": {
                "k_centroids": 40, "k_docs_to_score": 1000, "ef_search": 60,
            },
            "100 centroids, 4000 scored": {
                "k_centroids": 100, "k_docs_to_score": 4000, "ef_search": 150,
            },
        }
    }  # fmt: skip

    def build(self, documents: Documents, folder: Path, **options: Any) -> None:
        folder.mkdir()
        index = Tachiom.build_from_arrays(
            documents.values(0, len(documents)).view(np.uint16),
            documents.token_ids(),
            np.diff(documents.offsets).astype(np.int32),
            **options,
        )
        index.save(str(folder / "index.bin"))

    def open(self, folder: Path, documents: Documents) -> None:
        self.index = Tachiom.load(str(folder / "index.bin"))

    def search(self, query: np.ndarray[Any, Any], k: int, **setting: Any) -> list[int]:
        _, found = self.index.search(query, k, **setting)
        return [i for i in found.tolist() if i != NONE]

    def search_batch(
        self, queries: list[np.ndarray[Any, Any]], k: int, **setting: Any
    ) -> list[list[int]]:
        offsets = np.cumsum([0, *map(len, queries)]).astype(np.uint64)
        _, found = self.index.batch_search(
            np.concatenate(queries), len(queries), k,
            offsets=offsets, num_threads=self.threads, **setting,
        )  # fmt: skip
        return [[i for i in row if i != NONE] for row in found.tolist()]


if __name__ == "__main__":
    run(TachiomPeer)
