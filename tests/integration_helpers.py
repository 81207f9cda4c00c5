"""What the tests of the integrations share: a small index of birds and the model that reads it."""

from __future__ import annotations

from pathlib import Path

from toy_model import toy_model

from lateint.index import Index
from lateint.model import LateInteractionModel

TEXTS = {
    "kite": "a red kite circles above the weir",
    "gull": "two gulls follow the blue boat",
    "heron": "the heron waits at the weir",
}
META = {"kite": {"year": 2023}, "gull": {"year": 2024, "sea": True}, "heron": {"year": 2024}}


def birds(folder: Path) -> tuple[Index, LateInteractionModel]:
    """Three texts with metadata, in an index open for reading, and their model."""
    model = toy_model()
    with Index.create(folder, model.dim) as index:
        tokens = model.encode_documents(TEXTS.values())
        index.add(list(TEXTS), tokens, metadata=list(META.values()), texts=list(TEXTS.values()))
    return Index.open(folder), model
