"""lateint's model for bench_encoding.py, from the checkpoint that PyLate wrote. Variants: "torch", and
"onnx" and "int8" through onnxruntime, exported once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from encode_protocol import Side, run

import lateint
from lateint.onnx import export


class OurSide(Side):
    DISTRIBUTION = "lateint"
    BATCHES = (0,)  # the library's own choice
    DEFAULT = 0

    def __init__(self, folder: Path, variant: str) -> None:
        super().__init__(folder, variant)
        if variant == "torch":
            self.model = lateint.load(folder / "checkpoint")
            return
        exported = folder / f"ours-{variant}"
        if not (exported / "config.json").exists():
            export(lateint.load(folder / "checkpoint"), exported, int8=variant == "int8")
        self.model = lateint.load(exported)

    def encode(self, texts: list[str], role: str, batch: int) -> Any:
        call = self.model.encode_queries if role == "query" else self.model.encode_documents
        return call(texts)

    def matrices(self, encoded: Any) -> list[np.ndarray[Any, Any]]:
        return [rows.numpy() for rows in encoded]


if __name__ == "__main__":
    run(OurSide)
