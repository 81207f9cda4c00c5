"""The index: token matrices on the disk, searched with MaxSim. Imports no torch; loads lazily."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lateint.index.answers import Hit, IndexInfo
    from lateint.index.errors import (
        BadDocument,
        BadFilter,
        BadTokens,
        DuplicateId,
        IndexClosed,
        IndexCorrupt,
        IndexExists,
        IndexLocked,
        IndexMismatch,
        IndexMissing,
        IndexTooNew,
        IndexTooOld,
        IndexWriteFailed,
        LateintIndexError,
        NoTextSearch,
        UnknownId,
    )
    from lateint.index.hybrid import HybridHit
    from lateint.index.index import Index
    from lateint.index.repair import Repaired
    from lateint.index.tokens import Tokens

__all__ = [
    "BadDocument",
    "BadFilter",
    "BadTokens",
    "DuplicateId",
    "Hit",
    "HybridHit",
    "Index",
    "IndexClosed",
    "IndexCorrupt",
    "IndexExists",
    "IndexInfo",
    "IndexLocked",
    "IndexMismatch",
    "IndexMissing",
    "IndexTooNew",
    "IndexTooOld",
    "IndexWriteFailed",
    "LateintIndexError",
    "NoTextSearch",
    "Repaired",
    "Tokens",
    "UnknownId",
]

_ELSEWHERE = {
    "Hit": "answers",
    "HybridHit": "hybrid",
    "Index": "index",
    "IndexInfo": "answers",
    "Repaired": "repair",
    "Tokens": "tokens",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'errors')}"), name)
