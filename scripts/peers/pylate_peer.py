"""PyLate's indexes: PLAID (an older fast-plaid inside), Voyager and ScaNN (token neighbours, then
exact scoring of the documents they belong to)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from protocol import Documents, Peer, run
from pylate import indexes, retrieve


class PylatePeer(Peer):
    DISTRIBUTION = "pylate"
    VARIANTS: ClassVar = {"plaid": {}, "scann": {}, "voyager": {}}
    SETTINGS: ClassVar = {
        "plaid": {"defaults": {}},
        "scann": {"100 a token": {}, "400 a token": {"k_token": 400}},
        "voyager": {"100 a token": {}, "400 a token": {"k_token": 400}},
    }

    def build(self, documents: Documents, folder: Path) -> None:
        matrices = documents.matrices(0, len(documents))
        names = [str(i) for i in range(len(documents))]
        kept: list[Any] = [torch.from_numpy(m) for m in matrices]
        if self.variant != "plaid":
            kept = [m.astype(np.float32) for m in matrices]
        index = self._index(folder, override=True)
        index.add_documents(documents_ids=names, documents_embeddings=kept)

    def open(self, folder: Path, documents: Documents) -> None:
        torch.set_num_threads(self.threads)
        self.index = self._index(folder, override=False)
        self.retriever = retrieve.ColBERT(index=self.index)

    def _index(self, folder: Path, override: bool) -> Any:
        place = {"index_folder": str(folder), "index_name": "index", "override": override}
        if self.variant == "plaid":
            return indexes.PLAID(
                **place, device="cpu", show_progress=False, num_threads=self.threads
            )
        if self.variant == "scann":
            return indexes.ScaNN(**place)
        return indexes.Voyager(**place)

    def search(self, query: np.ndarray[Any, Any], k: int, **setting: Any) -> list[int]:
        return self.search_batch([query], k, **setting)[0]

    def search_batch(
        self, queries: list[np.ndarray[Any, Any]], k: int, **setting: Any
    ) -> list[list[int]]:
        given = [torch.from_numpy(query) for query in queries]
        found = self.retriever.retrieve(queries_embeddings=given, k=k, device="cpu", **setting)
        return [[int(hit["id"]) for hit in row] for row in found]


if __name__ == "__main__":
    run(PylatePeer)
