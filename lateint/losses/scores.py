"""`Scores`, what every loss reads: similarities, and which document belongs to which query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ABSENT = -1
"""Stands in `candidates` where a query has fewer candidates than another."""


@dataclass(frozen=True)
class Targets:
    """Which documents of a step belong to which of its Q queries; N documents in all.

    positives: (Q,) int64, the column (document) that answers each query.
    candidates: (Q, C) int64, columns of each query's own candidates: its positive first, then its
        hard negatives; -1 where a query has fewer than C. None: no query has hard negatives.
    teacher: (Q, C) floating point, a teacher's scores (or labels) of the candidates; NaN: none.
    excluded: (Q, N) bool, True: this pair must not count as a negative (the same document again,
        or one that probably is an answer too). What it says of a query's positive is not read.

    Raises ValueError where shapes or dtypes are not as above.
    """

    positives: Tensor
    candidates: Tensor | None = None
    teacher: Tensor | None = None
    excluded: Tensor | None = None

    def __post_init__(self) -> None:
        if self.positives.ndim != 1 or self.positives.dtype != torch.int64:
            raise ValueError(f"positives must be int64 (Q,), got {_what(self.positives)}")
        count = len(self.positives)
        ids, teacher, excluded = self.candidates, self.teacher, self.excluded
        if ids is not None and (ids.ndim != 2 or len(ids) != count or ids.dtype != torch.int64):
            raise ValueError(f"candidates must be int64 ({count}, C), got {_what(ids)}")
        if teacher is not None:
            if ids is None:
                raise ValueError("teacher scores belong to candidates, and there are none")
            if teacher.shape != ids.shape or not teacher.is_floating_point():
                wanted = tuple(ids.shape)
                raise ValueError(f"teacher must be floats {wanted}, got {_what(teacher)}")
        if excluded is not None and (
            excluded.ndim != 2 or len(excluded) != count or excluded.dtype != torch.bool
        ):
            raise ValueError(f"excluded must be bool ({count}, N), got {_what(excluded)}")

    @classmethod
    def by_column(cls, queries: int, negatives: int = 0, teacher: Tensor | None = None) -> Targets:
        """For documents that lie column by column, as a table's do: first the positives of all Q
        queries, then the first hard negative of each, then the second of each ...

        queries: Q. negatives: hard negatives of each query. teacher: (Q, 1 + negatives).
        """
        steps = torch.arange(1 + negatives) * queries
        candidates = torch.arange(queries)[:, None] + steps  # (Q, 1 + negatives)
        return cls(candidates[:, 0], candidates, teacher)

    def to(self, device: torch.device | str) -> Targets:
        """The same on another device."""
        parts = (self.positives, self.candidates, self.teacher, self.excluded)
        return Targets(*(None if part is None else part.to(device) for part in parts))  # type: ignore[arg-type]

    def own(self) -> Targets:
        """For a matrix that holds each query's own candidates only: column c of row q is then the
        c-th candidate of query q. Raises ValueError where there are no candidates."""
        positives = _place(self.candidates, self.positives)
        assert self.candidates is not None
        count, width = self.candidates.shape
        absent = self.candidates == ABSENT
        places = torch.arange(width, device=absent.device).expand(count, width)
        excluded = self.excluded
        if excluded is not None:
            excluded = excluded.gather(1, self.candidates.clamp(min=0)) & ~absent
        return Targets(positives, places.masked_fill(absent, ABSENT), self.teacher, excluded)

    def scores(self, matrix: Tensor) -> Scores:
        """With the similarities (Q, N)."""
        return Scores(matrix, self.positives, self.candidates, self.teacher, self.excluded)


@dataclass(frozen=True)
class Scores:
    """Similarities of a step.

    matrix: (Q, N) float32 or float64, similarity of each query and each document; larger: more
        alike. The columns are documents, or (see `Targets.own`) places among a query's own.
    positives, candidates, teacher, excluded: as in `Targets`, on the device of `matrix`.

    Raises ValueError where shapes or dtypes do not fit.
    """

    matrix: Tensor
    positives: Tensor
    candidates: Tensor | None = None
    teacher: Tensor | None = None
    excluded: Tensor | None = None

    def __post_init__(self) -> None:
        Targets(self.positives, self.candidates, self.teacher, self.excluded)
        count = len(self.positives)
        if self.matrix.ndim != 2 or len(self.matrix) != count or count == 0:
            raise ValueError(
                f"scores of {count} queries must be ({count}, N) of at least one query, "
                f"got {_what(self.matrix)}"
            )
        if self.excluded is not None and self.excluded.shape != self.matrix.shape:
            wanted = tuple(self.matrix.shape)
            raise ValueError(f"excluded must be bool {wanted}, got {_what(self.excluded)}")

    def positive(self) -> Tensor:
        """(Q,) similarity of each query and its positive."""
        return self.matrix.gather(1, self.positives[:, None]).squeeze(1)

    def place_of_positive(self) -> Tensor:
        """(Q,) int64, where among its candidates each query's positive stands."""
        return _place(self.candidates, self.positives)

    def is_positive(self) -> Tensor:
        """(Q, N) bool, True at each query's positive."""
        columns = torch.arange(self.matrix.shape[1], device=self.matrix.device)
        return columns == self.positives[:, None]

    def is_negative(self) -> Tensor:
        """(Q, N) bool, True where a pair counts as a negative: neither the positive nor excluded,
        and finite (-inf stands for a document that is not there)."""
        negative = ~self.is_positive() & (self.matrix > -torch.inf)
        return negative if self.excluded is None else negative & ~self.excluded

    def own(self) -> tuple[Tensor, Tensor]:
        """Similarities of each query's own candidates (Q, C), and (Q, C) bool: which of them are
        there and not excluded (the positive never is). Raises ValueError without candidates."""
        place = _place(self.candidates, self.positives)
        assert self.candidates is not None
        columns = self.candidates.clamp(min=0)
        there = self.candidates != ABSENT
        if self.excluded is not None:
            there &= ~self.excluded.gather(1, columns)
        there.scatter_(1, place[:, None], True)
        return self.matrix.gather(1, columns), there


class Loss(nn.Module, ABC):
    """A number to make small, out of Scores. May have parameters (a learned temperature)."""

    @property
    def own_only(self) -> bool:
        """Whether nothing but each query's own candidates is read: then only those pairs need
        scores, and the matrix may be (Q, C) with `Targets.own`."""
        return False

    @property
    def needs_teacher(self) -> bool:
        """Whether it reads `Scores.teacher`: a step without teacher scores has nothing for it."""
        return False

    @property
    def both_ways(self) -> bool:
        """Whether documents are compared over all queries too, so that a step over several
        processes needs the queries of all."""
        return False

    @abstractmethod
    def forward(self, scores: Scores) -> Tensor:
        """A scalar with gradients, the mean over queries."""


def _place(candidates: Tensor | None, positives: Tensor) -> Tensor:
    if candidates is None:
        raise ValueError(
            "this loss compares each query's own candidates, and there are none: give "
            "Targets.candidates (its positive first, then hard negatives)"
        )
    own = candidates == positives[:, None]
    if not bool(own.any(1).all()):
        raise ValueError("every query's candidates must have its positive, first")
    return own.int().argmax(1)


def _what(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}"
