"""Exact MaxSim by a float32 matrix product through torch, tokens kept as float16 in memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from protocol import Documents, Peer, run

BLOCK = 500  # documents at a time: their products stay small


class Exact(Peer):
    DISTRIBUTION = "torch"
    VARIANTS: ClassVar = {"fp16": {}}
    SETTINGS: ClassVar = {"fp16": {"exact": {}}}

    def build(self, documents: Documents, folder: Path) -> None:
        folder.mkdir()
        for name in ("values.npy", "offsets.npy"):
            shutil.copyfile(documents.folder / name, folder / name)

    def open(self, folder: Path, documents: Documents) -> None:
        torch.set_num_threads(self.threads)
        self.blocks = [
            (
                torch.from_numpy(documents.values(first, last)),
                torch.from_numpy(documents.offsets[first : last + 1] - documents.offsets[first]),
            )
            for first, last in documents.batches(BLOCK)
        ]

    @torch.inference_mode()
    def search(self, query: np.ndarray[Any, Any], k: int) -> list[int]:
        tokens = torch.from_numpy(query).T
        scores = torch.cat(
            [
                torch.segment_reduce(values.float() @ tokens, "max", offsets=offsets).sum(1)
                for values, offsets in self.blocks
            ]
        )
        return torch.topk(scores, min(k, len(scores))).indices.tolist()


if __name__ == "__main__":
    run(Exact)
