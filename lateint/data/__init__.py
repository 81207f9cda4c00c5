"""Training data: pairs, triples, scored lists, qrels, PDFs and captions, of any modality.

    pairs = lateint.data.read("pairs.jsonl")          # query, positive, negatives ... by position
    pages = lateint.data.read("pages.parquet", [Column("question", "query"),
                                                Column("scan", "document", "page")])
    titles = lateint.data.outline_pages("papers/")    # what an outline says, and the page

A file is read into a `TrainingSet`, whose examples have a query and documents (the positive first);
`Batches` says which of them make a step, `Collate` makes it. Names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lateint.data.batches import Batches, JoinedSets, Mix, batch_loader
    from lateint.data.collate import Collate, Step
    from lateint.data.columns import Column, Columns, DataError, Example, Item, by_position
    from lateint.data.folders import captions, outline_pages, sentence_pages
    from lateint.data.graded import as_benchmark
    from lateint.data.rows import JsonLines, Parquet
    from lateint.data.sets import ExampleSet, IdSet, TableSet, TrainingSet, as_training_set, read
    from lateint.data.stream import Stream

_WHERE = {
    "batches": ("Batches", "JoinedSets", "Mix", "batch_loader"),
    "collate": ("Collate", "Step"),
    "columns": ("Column", "Columns", "DataError", "Example", "Item", "by_position"),
    "folders": ("captions", "outline_pages", "sentence_pages"),
    "graded": ("as_benchmark",),
    "rows": ("JsonLines", "Parquet"),
    "sets": ("ExampleSet", "IdSet", "TableSet", "TrainingSet", "as_training_set", "read"),
    "stream": ("Stream",),
}
_MODULE = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Batches",
    "Collate",
    "Column",
    "Columns",
    "DataError",
    "Example",
    "ExampleSet",
    "IdSet",
    "Item",
    "JoinedSets",
    "JsonLines",
    "Mix",
    "Parquet",
    "Step",
    "Stream",
    "TableSet",
    "TrainingSet",
    "as_benchmark",
    "as_training_set",
    "batch_loader",
    "by_position",
    "captions",
    "outline_pages",
    "read",
    "sentence_pages",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE[name]}"), name)
    globals()[name] = value
    return value
