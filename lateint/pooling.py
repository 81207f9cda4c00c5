"""Fewer tokens a document: by rule, by merging those that are alike, or by a learned budget.

`shorten` cuts by a fixed rule and learns nothing; it is what an encoder is trained through so that
its documents stand being cut (Matryoshka over tokens). `merged` joins tokens that are alike, without
gradients, as the index does with whole documents (`lateint.index.pooling`). `TokenBudget` learns
which tokens to keep. None knows scores or heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lateint.merging import merge
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
        # rounded: rows of unit length are equals
        length = documents.values.detach().float().norm(dim=-1).cpu().round(decimals=5)
        place = _ranks(length, documents)
    rows = (place < kept.repeat_interleave(lengths)).nonzero().squeeze(1)
    return Ragged(documents.values.index_select(0, rows.to(documents.device)), _offsets(kept))


def merged(documents: Ragged, factor: float, least: int = 1) -> tuple[Ragged, Tensor]:
    """About one row in `factor` of each item, at least `least`: the most alike are merged into one
    (`lateint.merging.merge`). No gradient goes through.

    Returns the rows and (N,) bool on the CPU: which of `documents` are the first of a merged row or
    have stayed."""
    rows, first, lengths = [], [], []
    for item in documents:
        count = min(len(item), max(least, math.ceil(len(item) / factor)))
        kept = torch.ones(len(item), dtype=torch.bool)
        if count < len(item):
            values, members = merge(item.detach().float().cpu().numpy(), count)
            kept = torch.zeros_like(kept)
            kept[torch.from_numpy(members)] = True
            item = torch.from_numpy(values).to(item)
        rows.append(item)
        first.append(kept)
        lengths.append(len(item))
    if not rows:
        return documents, torch.ones(0, dtype=torch.bool)
    return Ragged(torch.cat(rows), _offsets(torch.tensor(lengths))), torch.cat(first)


class TokenNet(nn.Module):
    """A number for each token: (N, width) unit rows -> (N,), linear or with one hidden layer.

    start: None: random weights; a number: what it says of every token before it is trained.
    Computes in the dtype of its weights, whatever the rows come in.
    """

    def __init__(self, width: int, hidden: int = 0, *, start: float | None = None) -> None:
        super().__init__()
        last = nn.Linear(hidden or width, 1)
        if start is not None:
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, start)
        first = (nn.Linear(width, hidden), nn.GELU()) if hidden else ()
        self.layers = nn.Sequential(*first, last)
        self.width = width

    def forward(self, rows: Tensor) -> Tensor:
        if rows.shape[-1] != self.width:
            raise ValueError(
                f"this head was made for tokens of width {self.width}, got {rows.shape[-1]}"
            )
        dtype = next(self.parameters()).dtype
        result: Tensor = self.layers(rows.to(dtype)).squeeze(-1)
        return result


class TokenBudget(nn.Module):
    """Keeps the `count` tokens of a document that a small net scores highest, and trains that net.

    In eval mode the choice is hard: the highest scores stay (of equals the first), in their order,
    as they are. In training mode every token stays and is multiplied by a gate,
    sigmoid((score - border) / softness), where border lies halfway between the last score that
    would be kept and the first that would not: short rows lose the maximum to others, so the loss
    says of every token, kept or not, whether it is missed, and gates go to 0 or 1 as scores part.
    (A straight-through hard choice gives a token that is not kept no gradient at all: it cannot
    come back.) A document that has no more than `count` tokens keeps all, with gates of 1.

    Args:
        count: tokens kept. width: of the tokens that the net reads. hidden: as in `TokenNet`.
        softness: of the gates; larger: gradients reach tokens further from the border, and
            training sees documents less like those that are kept in the end.
    """

    def __init__(self, count: int, width: int, hidden: int = 0, softness: float = 0.1) -> None:
        super().__init__()
        if count < 1 or not softness > 0:
            raise ValueError(f"count {count}, softness {softness}: wanted at least 1 and above 0")
        self.count = count
        self.softness = softness
        self.net = TokenNet(width, hidden)

    def forward(self, documents: Ragged, tokens: Tensor) -> tuple[Ragged, Tensor]:
        """documents: rows to keep or to leave; tokens: (N, width), what the net reads of each.

        Returns the rows, and (N,) bool on their device: which of `documents` they are."""
        score = self.net(tokens)
        place = _ranks(score.detach().cpu(), documents)
        if self.training:
            gates = torch.sigmoid((score - self._border(score, place, documents)) / self.softness)
            gates = gates[:, None].to(documents.dtype)
            return Ragged(documents.values * gates, documents.offsets), torch.ones_like(
                score, dtype=torch.bool
            )
        kept = (place < self.count).to(documents.device)
        values = documents.values.index_select(0, kept.nonzero().squeeze(1))
        return Ragged(values, _offsets(documents.lengths.clamp(max=self.count))), kept

    def _border(self, score: Tensor, place: Tensor, documents: Ragged) -> Tensor:
        """(N,) the border of each token's document, without gradient; -inf where all are kept."""
        lengths = documents.lengths
        score = score.detach()
        border = torch.full((len(documents),), -torch.inf, dtype=score.dtype, device=score.device)
        owner = torch.arange(len(documents)).repeat_interleave(lengths)
        last, first = (
            (place == self.count - 1).nonzero()[:, 0],
            (place == self.count).nonzero()[:, 0],
        )
        last = last[lengths[owner[last]] > self.count]
        # both are in the order of their documents
        border[owner[first].to(score.device)] = (score[last] + score[first]) / 2
        return border[owner.to(score.device)]


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
