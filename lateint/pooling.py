"""Fewer tokens a document, with gradients: by rule, or by a learned budget.

`shorten` cuts by a fixed rule and learns nothing; it is what an encoder is trained through so that
its documents stand being cut (Matryoshka over tokens). `TokenBudget` learns which tokens to keep.
Neither knows scores or heads. The index pools by itself, without gradients: `lateint.index.pooling`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lateint.ragged import Ragged

RULES = ("runs", "first", "longest")


def shorten(documents: Ragged, count: int | None, rule: str = "runs") -> Ragged:
    """At most `count` rows an item; items that have no more keep theirs. Differentiable.

    Args:
        documents: token matrices.
        count: smaller: fewer bytes in the index and less time in search, less quality; None: all.
        rule: of an item with L rows,
            "runs": row j goes into run floor(j count / L); a run becomes one row that points where
                its sum points, as long as its rows are on average;
            "first": the first `count` rows (for an encoder whose first tokens are summaries);
            "longest": the `count` longest rows in their order (a row's length is a token's weight
                where a head gives it one); of equals the first.

    Raises ValueError for an unknown rule or a count below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"count is a number of rows, at least 1, got {count}")
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r}: wanted one of {', '.join(RULES)}")
    lengths = documents.lengths
    if count is None or not bool((lengths > count).any()):
        return documents
    kept = lengths.clamp(max=count)
    place = torch.arange(len(documents.values)) - documents.offsets[:-1].repeat_interleave(lengths)
    if rule == "runs":
        return _runs(documents, place, kept)
    if rule == "longest":
        length = documents.values.detach().float().norm(dim=-1).cpu()
        place = _ranks(length, documents)
    rows = (place < kept.repeat_interleave(lengths)).nonzero().squeeze(1)
    return Ragged(documents.values.index_select(0, rows.to(documents.device)), _offsets(kept))


def _runs(documents: Ragged, place: Tensor, kept: Tensor) -> Ragged:
    lengths, offsets = documents.lengths, _offsets(kept)
    each = kept.repeat_interleave(lengths), lengths.repeat_interleave(lengths)
    run = place * each[0] // each[1] + offsets[:-1].repeat_interleave(lengths)
    run = run.to(documents.device)
    values = documents.values
    wide = values if values.dtype == torch.float64 else values.float()
    total = wide.new_zeros(int(offsets[-1]), values.shape[1]).index_add(0, run, wide)
    size = run.bincount(minlength=len(total)).to(wide)
    length = wide.new_zeros(len(total)).index_add(0, run, wide.norm(dim=-1)) / size
    pooled = nn.functional.normalize(total, dim=-1) * length[:, None]
    return Ragged(pooled.to(values.dtype), offsets)


def _ranks(score: Tensor, documents: Ragged) -> Tensor:
    """(N,) 0 for the row with the highest score of its item, 1 for the next; of equals the first
    comes first. On the CPU."""
    lengths = documents.lengths
    item = torch.arange(len(documents)).repeat_interleave(lengths)
    order = score.argsort(descending=True, stable=True)
    order = order[item[order].argsort(stable=True)]  # by item, then by score
    place = torch.arange(len(order)) - documents.offsets[:-1].repeat_interleave(lengths)
    return torch.empty_like(order).scatter_(0, order, place)


def _offsets(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
