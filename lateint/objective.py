"""Objectives: what a training step makes small, out of the vectors of its heads.

    loss = sum(objective(queries, documents, targets) for objective in objectives)

where `queries` and `documents` are Ragged by head ({"multi": ..., "single": ...}) and `targets`
says which belong together. `Objective` is one loss on one head, at several widths and numbers of
tokens if asked to (Matryoshka); `Distil` teaches one head what another one says. Nothing here knows
an encoder, a data set or a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lateint.config import nearest
from lateint.heads import prefix, unit_rows
from lateint.losses import KL, Loss, Targets
from lateint.pooling import RULES, shorten
from lateint.ragged import Ragged
from lateint.scorers import MaxSim, Scorer


class Goal(nn.Module, ABC):
    """A part of what a training step makes small."""

    weight: float

    @property
    @abstractmethod
    def heads(self) -> tuple[str, ...]:
        """The heads whose vectors it reads."""

    @property
    def needs_all_documents(self) -> bool:
        """Whether a step over several processes must gather their documents
        (`lateint.distributed`): not where each query is compared with its own candidates only."""
        return True

    @property
    def needs_teacher(self) -> bool:
        """Whether it has nothing to do in a step without `Targets.teacher`."""
        return False

    @property
    def needs_all_queries(self) -> bool:
        """Whether a step over several processes must gather queries as well as documents."""
        return False

    @abstractmethod
    def forward(
        self, queries: Mapping[str, Ragged], documents: Mapping[str, Ragged], targets: Targets
    ) -> Tensor:
        """A scalar with gradients, times `weight`.

        queries: head -> Ragged of Q items. documents: head -> Ragged of N items, the columns that
        `targets` speaks of. Raises ValueError naming a head that is missing.
        """


class Objective(Goal):
    """One loss on one head.

    Args:
        loss: on score matrices, of `lateint.losses`.
        head: the head whose vectors are scored.
        scorer: how, of `lateint.scorers`.
        dims: Matryoshka over dimensions (Kusupati et al. 2022, arXiv:2205.13147): the mean of the
            losses on the first d numbers of each row, for each d; None: the whole width. Rows are
            brought back to the length that they had.
        tokens: Matryoshka over the number of document tokens: the mean of the losses with at most n
            tokens a document, for each n; None: all of them. Queries keep theirs. Every dim is
            paired with every n.
        rule: how a document is cut to n tokens, one of `lateint.pooling.RULES`: "runs" (means of
            neighbours), "first" (the first n), "longest" (the n longest rows).
        weight: the result is multiplied by it.

    Raises ValueError: no dims or tokens, or below 1; an unknown rule.
    """

    def __init__(
        self,
        loss: Loss,
        head: str = "multi",
        scorer: Scorer | None = None,
        *,
        dims: Sequence[int | None] = (None,),
        tokens: Sequence[int | None] = (None,),
        rule: str = "runs",
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        for name, values in (("dims", dims), ("tokens", tokens)):
            if not values or any(value is not None and value < 1 for value in values):
                raise ValueError(f"{name} must be numbers of at least 1 or None, got {values}")
        if rule not in RULES:
            raise ValueError(f"unknown rule {rule!r}{nearest(rule, RULES)}")
        self.loss = loss
        self.head = head
        self.scorer = scorer or MaxSim()
        self.dims = tuple(dims)
        self.tokens = tuple(tokens)
        self.rule = rule
        self.weight = weight

    @property
    def heads(self) -> tuple[str, ...]:
        return (self.head,)

    @property
    def needs_all_documents(self) -> bool:
        return not self.loss.own_only

    @property
    def needs_teacher(self) -> bool:
        return self.loss.needs_teacher

    @property
    def needs_all_queries(self) -> bool:
        return self.loss.both_ways

    def forward(
        self, queries: Mapping[str, Ragged], documents: Mapping[str, Ragged], targets: Targets
    ) -> Tensor:
        asked, found = _of(queries, self.head), _of(documents, self.head)
        # a loss that reads own candidates only is spared the pairs that it would not read
        own = targets.own() if self.loss.own_only else None
        losses = []
        for count in self.tokens:
            shorter = shorten(found, count, self.rule)
            for dim in self.dims:
                a, b = narrow(asked, dim), narrow(shorter, dim)
                if own is None:
                    scores = targets.scores(self.scorer(a, b))
                else:
                    assert targets.candidates is not None
                    scores = own.scores(self.scorer.pairs(a, b, targets.candidates))
                losses.append(self.loss(scores))
        mean: Tensor = torch.stack(losses).mean() * self.weight
        return mean

    def extra_repr(self) -> str:
        return f"head={self.head!r}, scorer={self.scorer}, dims={self.dims}, tokens={self.tokens}"


class Distil(Goal):
    """One head of the model learns from another: the student's loss against the teacher's scores
    of the same step, taken without gradient (as M3's self-knowledge distillation, Chen et al. 2024,
    arXiv:2402.03216). Every document of the step is a candidate of every query.

    Args:
        teacher, student: heads.
        loss: one that reads teacher scores; None: `KL()`. Scores of the two heads have other
            scales: a MaxSim of 32 tokens against a cosine wants KL(temperature=1.0,
            student_temperature=0.03) or so.
        teacher_scorer, student_scorer: None: `MaxSim()`.
        weight: the result is multiplied by it.
    """

    def __init__(
        self,
        teacher: str = "multi",
        student: str = "single",
        loss: Loss | None = None,
        *,
        teacher_scorer: Scorer | None = None,
        student_scorer: Scorer | None = None,
        weight: float = 1.0,
    ) -> None:
        super().__init__()
        if teacher == student:
            raise ValueError(f"teacher and student are the same head, {teacher!r}")
        self.teacher, self.student = teacher, student
        self.loss = loss or KL()
        self.teacher_scorer = teacher_scorer or MaxSim()
        self.student_scorer = student_scorer or MaxSim()
        self.weight = weight

    @property
    def heads(self) -> tuple[str, ...]:
        return (self.teacher, self.student)

    def forward(
        self, queries: Mapping[str, Ragged], documents: Mapping[str, Ragged], targets: Targets
    ) -> Tensor:
        with torch.no_grad():
            wanted = self.teacher_scorer(
                _of(queries, self.teacher), _of(documents, self.teacher)
            )  # (Q, N)
        matrix = self.student_scorer(_of(queries, self.student), _of(documents, self.student))
        columns = torch.arange(matrix.shape[1], device=matrix.device).expand_as(matrix)
        # the positive first, the others in their order
        others = (columns != targets.positives[:, None]).byte()
        candidates = others.argsort(dim=1, stable=True)
        everything = replace(
            targets, candidates=candidates, teacher=wanted.gather(1, candidates).to(matrix.dtype)
        )
        result: Tensor = self.loss(everything.scores(matrix)) * self.weight
        return result

    def extra_repr(self) -> str:
        return f"{self.teacher!r} -> {self.student!r}"


def narrow(rows: Ragged, dim: int | None) -> Ragged:
    """The first `dim` numbers of each row, as long as the row was: unit rows stay unit rows, and a
    query token's weight stays what it was. None: as they are. Differentiable."""
    if dim is None or dim == rows.dim:
        return rows
    values = rows.values
    wide = values if values.dtype == torch.float64 else values.float()
    length = wide.norm(dim=-1, keepdim=True).to(values.dtype)
    return Ragged(unit_rows(prefix(values, dim)) * length, rows.offsets)


def _of(vectors: Mapping[str, Ragged], head: str) -> Ragged:
    if head not in vectors:
        raise ValueError(f"no vectors of head {head!r}{nearest(head, vectors)}")
    return vectors[head]
