"""PyLate's ColBERT for bench_encoding.py; `make` writes the checkpoint that all sides read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from encode_protocol import Side, run
from pylate import models
from safetensors.torch import load_file


class PylateSide(Side):
    DISTRIBUTION = "pylate"

    def __init__(self, folder: Path, variant: str) -> None:
        super().__init__(folder, variant)
        self.model = models.ColBERT(model_name_or_path=str(folder / "checkpoint"), device="cpu")

    def encode(self, texts: list[str], role: str, batch: int) -> Any:
        return self.model.encode(
            texts, is_query=role == "query", batch_size=batch, show_progress_bar=False
        )


def make(folder: Path) -> None:
    """FOLDER/backbone and FOLDER/projection.safetensors -> FOLDER/checkpoint. The markers are entries
    that the vocabulary has and nobody uses, so that no library has to make up their vectors."""
    weight = load_file(folder / "projection.safetensors")["weight"].T.contiguous()
    model = models.ColBERT(
        model_name_or_path=str(folder / "backbone"),
        embedding_size=len(weight),
        query_prefix="[unused0]",
        document_prefix="[unused1]",
        query_length=32,
        document_length=180,
        device="cpu",
    )
    with torch.no_grad():
        model[1].linear.weight.copy_(weight)
    model.save_pretrained(str(folder / "checkpoint"))


if __name__ == "__main__":
    if sys.argv[2] == "make":
        make(Path(sys.argv[1]))
    else:
        run(PylateSide)
