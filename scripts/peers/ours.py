"""lateint.index, through its public interface only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from protocol import Documents, Peer, run

from lateint.index import Index, Tokens

BATCH = 500  # documents: what an encoder hands over from time to time
CANDIDATES = {
    "defaults": {},
    "256 scored": {"ncandidates": 256},
    "2048 scored": {"ncandidates": 2048},
}


class Ours(Peer):
    DISTRIBUTION = "lateint"
    VARIANTS: ClassVar = {
        "4 bits": {"nbits": 4},
        "2 bits": {"nbits": 2},
        "1 bit": {"nbits": 1},
        "4 bits, originals": {"nbits": 4, "keep_originals": True},
        "16 bits": {"nbits": 16},
    }
    SETTINGS: ClassVar = {
        "4 bits": CANDIDATES,
        "2 bits": CANDIDATES,
        "1 bit": CANDIDATES,
        "4 bits, originals": {"defaults": {}, "2048 scored": {"ncandidates": 2048}},
        "16 bits": {"exact": {}},
    }

    def build(self, documents: Documents, folder: Path, **options: Any) -> None:
        def batches() -> Iterator[tuple[Any, ...]]:
            for first, last in documents.batches(BATCH):
                offsets = documents.offsets[first : last + 1] - documents.offsets[first]
                tokens = Tokens(documents.values(first, last), offsets)
                yield [str(i) for i in range(first, last)], tokens

        Index.build(folder, batches(), documents.dim, **options).close()

    def open(self, folder: Path, documents: Documents) -> None:
        self.index = Index.open(folder)

    def search(self, query: np.ndarray[Any, Any], k: int, **setting: Any) -> list[int]:
        return [int(hit.id) for hit in self.index.search([query], k, threads=1, **setting)[0]]

    def search_batch(
        self, queries: list[np.ndarray[Any, Any]], k: int, **setting: Any
    ) -> list[list[int]]:
        found = self.index.search(queries, k, threads=self.threads, **setting)
        return [[int(hit.id) for hit in row] for row in found]


if __name__ == "__main__":
    run(Ours)
