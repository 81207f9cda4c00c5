"""xtr-warp-rs: WARP in Rust over libtorch. It estimates the scores of documents' unseen tokens
instead of scoring candidates in full, which suits the models trained for that (XTR); recall
against exact MaxSim on other tokens is therefore low by design."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from protocol import Documents, Peer, run
from xtr_warp import XTRWarp


class XtrWarpPeer(Peer):
    DISTRIBUTION = "xtr-warp-rs"
    VARIANTS: ClassVar = {"4 bits": {"nbits": 4}}
    SETTINGS: ClassVar = {
        "4 bits": {
            "defaults": {},
            "nprobe 16": {"nprobe": 16},
            "nprobe 64, bound 256": {"nprobe": 64, "bound": 256},
        }
    }

    def build(self, documents: Documents, folder: Path, **options: Any) -> None:
        held = [torch.from_numpy(m).float() for m in documents.matrices(0, len(documents))]
        XTRWarp(str(folder)).create(held, device="cpu", show_progress=False, **options)

    def open(self, folder: Path, documents: Documents) -> None:
        torch.set_num_threads(self.threads)
        self.index = XTRWarp(str(folder)).load("cpu")

    def search(self, query: np.ndarray[Any, Any], k: int, **setting: Any) -> list[int]:
        return self._search(torch.from_numpy(query)[None], k, 1, setting)[0]

    def search_batch(
        self, queries: list[np.ndarray[Any, Any]], k: int, **setting: Any
    ) -> list[list[int]]:
        # it pads queries of a batch with zero rows, which add nothing to a score
        given = [torch.from_numpy(query) for query in queries]
        return self._search(given, k, self.threads, setting)

    def _search(self, queries: Any, k: int, threads: int, setting: Any) -> list[list[int]]:
        found = self.index.search(
            queries, top_k=k, num_threads=threads, show_progress=False, **setting
        )
        return [[i for i, _ in row] for row in found]


if __name__ == "__main__":
    run(XtrWarpPeer)
