"""Pairs that look like negatives and probably are none."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from lateint.losses.scores import ABSENT, Loss, Scores


def duplicates(query_keys: Tensor, document_keys: Tensor, positives: Tensor) -> Tensor:
    """Documents that are no negatives because they are an answer by themselves or by another query.

    A pair is excluded where the document is the query's positive again under another column, or
    the positive of a query that is the same as this one.

    Args:
        query_keys: (Q,) int64, equal for equal queries (a hash of the text, an id).
        document_keys: (N,) int64, equal for equal documents.
        positives: (Q,) int64, columns.

    Returns:
        (Q, N) bool for `Targets.excluded`; False at each query's own positive.
    """
    answers = document_keys[positives]  # (Q,)
    asked_again = query_keys[:, None] == query_keys  # (Q, Q)
    excluded = torch.zeros(
        len(query_keys), len(document_keys), dtype=torch.bool, device=document_keys.device
    )
    for row in range(len(query_keys)):
        excluded[row] = torch.isin(document_keys, answers[asked_again[row]])
    return excluded.scatter(1, positives[:, None], False)


def likely_positives(
    scores: Scores,
    *,
    margin: float | None = None,
    relative: float | None = None,
    by: Literal["student", "teacher"] = "student",
) -> Scores:
    """The same scores with more pairs excluded: those scoring too near their query's positive.

    Args:
        margin: excluded where score > positive - margin. Larger: more is excluded; may be negative
            (only what stands so far above the positive).
        relative: excluded where score > positive - |positive| (1 - relative): 0.95 is "above 95 %
            of the positive". Smaller: more is excluded.
        by: whose scores decide: the student's own (over all pairs, without gradient), or the
            teacher's of a query's candidates (others stay).

    Raises ValueError unless exactly one of margin and relative is given, or without a teacher where
    it should decide.
    """
    if (margin is None) == (relative is None):
        raise ValueError(f"give margin or relative, one of them: got {margin}, {relative}")
    if by == "student":
        matrix, positive = scores.matrix.detach(), scores.positive().detach()
        above = matrix > _limit(positive, margin, relative)[:, None]
    elif by == "teacher":
        if scores.teacher is None or scores.candidates is None:
            raise ValueError("a filter by the teacher needs Scores.teacher and Scores.candidates")
        positive = scores.teacher.gather(1, scores.place_of_positive()[:, None]).squeeze(1)
        # NaN (no teacher's score) compares False: it stays
        near = scores.teacher > _limit(positive, margin, relative)[:, None]
        near &= scores.candidates != ABSENT
        above = torch.zeros_like(scores.matrix, dtype=torch.bool)
        rows, places = near.nonzero(as_tuple=True)
        above[rows, scores.candidates[rows, places]] = True
    else:
        raise ValueError(f'by must be "student" or "teacher", got {by!r}')
    above &= ~scores.is_positive()
    return replace(scores, excluded=above if scores.excluded is None else above | scores.excluded)


class Filtered(Loss):
    """A loss that does not see likely positives as negatives; arguments as `likely_positives`."""

    def __init__(
        self,
        loss: Loss,
        *,
        margin: float | None = None,
        relative: float | None = None,
        by: Literal["student", "teacher"] = "student",
    ) -> None:
        super().__init__()
        if (margin is None) == (relative is None):
            raise ValueError(f"give margin or relative, one of them: got {margin}, {relative}")
        self.loss = loss
        self.margin, self.relative = margin, relative
        self.by = by

    @property
    def own_only(self) -> bool:
        return self.loss.own_only

    @property
    def both_ways(self) -> bool:
        return self.loss.both_ways

    @property
    def needs_teacher(self) -> bool:
        return self.by == "teacher" or self.loss.needs_teacher

    def forward(self, scores: Scores) -> Tensor:
        kept = likely_positives(scores, margin=self.margin, relative=self.relative, by=self.by)
        result: Tensor = self.loss(kept)
        return result


def _limit(positive: Tensor, margin: float | None, relative: float | None) -> Tensor:
    """(Q,) the highest score that still counts as a negative."""
    if margin is not None:
        return positive - margin
    assert relative is not None
    return positive - positive.abs() * (1 - relative)
