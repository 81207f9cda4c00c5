"""fast-plaid: PLAID in Rust over libtorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from fast_plaid.search import FastPlaid
from protocol import Documents, Peer, run

WIDE = {"n_ivf_probe": 32, "n_full_scores": 8192}
NARROW = {"n_ivf_probe": 4, "n_full_scores": 1024}


class FastPlaidPeer(Peer):
    DISTRIBUTION = "fast-plaid"
    VARIANTS: ClassVar = {"4 bits": {"nbits": 4}, "2 bits": {"nbits": 2}}
    SETTINGS: ClassVar = {
        "4 bits": {"defaults": {}, "probe 4, 1024 scored": NARROW, "probe 32, 8192 scored": WIDE},
        "2 bits": {"defaults": {}, "probe 4, 1024 scored": NARROW},
    }

    def build(self, documents: Documents, folder: Path, **options: Any) -> None:
        held = [torch.from_numpy(m) for m in documents.matrices(0, len(documents))]
        FastPlaid(index=str(folder), device="cpu").create(documents_embeddings=held, **options)

    def open(self, folder: Path, documents: Documents) -> None:
        torch.set_num_threads(self.threads)
        self.index = FastPlaid(index=str(folder), device="cpu")

    def search(self, query: np.ndarray[Any, Any], k: int, **setting: Any) -> list[int]:
        return self._search([query], k, 1, setting)[0]

    def search_batch(
        self, queries: list[np.ndarray[Any, Any]], k: int, **setting: Any
    ) -> list[list[int]]:
        return self._search(queries, k, self.threads, setting)

    def _search(self, queries: list[Any], k: int, workers: int, setting: Any) -> list[list[int]]:
        found = self.index.search(
            [torch.from_numpy(query) for query in queries],
            top_k=k, show_progress=False, n_processes=workers, **setting,
        )  # fmt: skip
        return [[i for i, _ in row] for row in found]


if __name__ == "__main__":
    run(FastPlaidPeer)
