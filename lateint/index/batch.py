"""Documents on their way in, checked whole before the first byte of them is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lateint.index.catalog import check_ids, check_text, encode_metadata, some
from lateint.index.errors import BadDocument, DuplicateId
from lateint.index.manifest import Manifest
from lateint.index.pooling import pool_tokens
from lateint.index.tokens import (
    Tokens,
    as_tokens,
    check_filled,
    shortened,
    to_half,
    without_padding,
)


@dataclass(frozen=True)
class Batch:
    """B documents that can be kept as they are."""

    ids: list[str]  # unique
    tokens: Tokens  # float16
    metadata: list[str]  # JSON
    texts: list[str | None]


def check_batch(
    ids: Sequence[str],
    docs: Any,
    metadata: Sequence[dict[str, Any]] | None,
    texts: Sequence[str | None] | None,
    manifest: Manifest,
) -> Batch:
    """A batch of checked documents, their tokens as the index is to keep them.

    Raises DuplicateId, BadDocument, BadTokens, IndexMismatch; the message names the document.
    """
    names = check_ids(ids)
    tokens = _real_tokens(docs, manifest)
    tokens = to_half(pool_tokens(tokens, manifest.options.pool_factor), "document")
    if len(tokens) != len(names):
        raise BadDocument(f"got {len(names)} ids and {len(tokens)} documents; wanted one id each")
    _check_unique(names)
    fields = _as_many(metadata, names, "metadata", {})
    said = _as_many(texts, names, "texts", None)
    return Batch(
        names,
        tokens,
        [encode_metadata(field, name) for field, name in zip(fields, names, strict=True)],
        [check_text(text, name) for text, name in zip(said, names, strict=True)],
    )


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Batches end to end. Raises DuplicateId."""
    if len(batches) == 1:
        return batches[0]
    names = [name for batch in batches for name in batch.ids]
    _check_unique(names)
    lengths = np.concatenate([batch.tokens.lengths for batch in batches])
    return Batch(
        names,
        Tokens(
            np.concatenate([batch.tokens.values for batch in batches]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        ),
        [fields for batch in batches for fields in batch.metadata],
        [text for batch in batches for text in batch.texts],
    )


def _real_tokens(docs: Any, manifest: Manifest) -> Tokens:
    """Checked tokens without padding, as wide as the index keeps them. Raises BadTokens."""
    tokens = without_padding(docs, as_tokens(docs, manifest.dim, "document"))
    check_filled(tokens, "document")
    return shortened(tokens, manifest.width)


def _check_unique(names: list[str]) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise DuplicateId(f"given twice: {some(twice)}")


def _as_many(given: Sequence[Any] | None, names: list[str], what: str, default: Any) -> list[Any]:
    """One item per document. Raises BadDocument."""
    if given is None:
        return [default] * len(names)
    if isinstance(given, (str, bytes, dict)):
        raise BadDocument(f"{what}: got one {type(given).__name__}; wanted a list with one per id")
    items = list(given)
    if len(items) != len(names):
        raise BadDocument(f"{what}: got {len(items)} for {len(names)} ids; wanted one each")
    return items
