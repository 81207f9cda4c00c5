"""sentence-transformers' MultiVectorEncoder for bench_encoding.py, from the checkpoint that PyLate
wrote (it reads those)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from encode_protocol import Side, run
from sentence_transformers import MultiVectorEncoder


class SbertSide(Side):
    DISTRIBUTION = "sentence-transformers"

    def __init__(self, folder: Path, variant: str) -> None:
        super().__init__(folder, variant)
        self.model = MultiVectorEncoder(str(folder / "checkpoint"), device="cpu")

    def encode(self, texts: list[str], role: str, batch: int) -> Any:
        call = self.model.encode_query if role == "query" else self.model.encode_document
        return call(texts, batch_size=batch, show_progress_bar=False)

    def matrices(self, encoded: Any) -> list[np.ndarray[Any, Any]]:
        return [np.asarray(getattr(each, "numpy", lambda e=each: e)()) for each in encoded]


if __name__ == "__main__":
    run(SbertSide)
