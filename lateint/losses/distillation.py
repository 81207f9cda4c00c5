"""Losses that make a student score a query's own candidates as a teacher does."""

from __future__ import annotations

import torch
from torch import Tensor

from lateint.losses.scores import Loss, Scores


class KL(Loss):
    """Kullback-Leibler divergence of the student's distribution over a query's candidates from the
    teacher's: mean over queries of  sum_c t_c (log t_c - log s_c),  t = softmax(teacher /
    temperature), s = softmax(student / temperature).

    Args:
        temperature: larger: both distributions flatter, the order among low candidates matters
            more.
        student_temperature: another one for the student, where its scores have another scale;
            None: the same.
        normalise: stretch each query's student scores to 0..1 first (min-max), as PyLate does:
            the teacher's scale then matters no longer to how far apart the student's scores go.

    Candidates without a teacher's score are left out, and queries with fewer than two others.
    (sentence-transformers multiplies this by the student's temperature squared.)
    """

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        student_temperature: float | None = None,
        normalise: bool = False,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.student_temperature = student_temperature or temperature
        self.normalise = normalise
        if not (self.temperature > 0 and self.student_temperature > 0):
            raise ValueError(f"temperatures must be above 0, got {temperature}")

    @property
    def own_only(self) -> bool:
        return True

    @property
    def needs_teacher(self) -> bool:
        return True

    def forward(self, scores: Scores) -> Tensor:
        student, teacher, there = _compared(scores, "KL")
        if self.normalise:
            lowest = student.masked_fill(~there, torch.inf).amin(1, keepdim=True)
            highest = student.masked_fill(~there, -torch.inf).amax(1, keepdim=True)
            smallest = torch.finfo(student.dtype).eps
            student = (student - lowest) / (highest - lowest).clamp(min=smallest)
        wanted = (teacher / self.temperature).masked_fill(~there, -torch.inf).log_softmax(1)
        logits = (student / self.student_temperature).masked_fill(~there, -torch.inf)
        # a candidate left out has probability 0 and log -inf on both sides: it adds 0, not NaN
        apart = (wanted - logits.log_softmax(1)).masked_fill(~there, 0)
        return (wanted.exp() * apart).sum() / len(student)


class MarginMSE(Loss):
    """Squared difference of the student's and the teacher's margins between a query's positive and
    each of its hard negatives; mean over all of them (Hofstätter et al. 2020, arXiv:2010.02666).

    Args:
        scale: the student's scores are multiplied by it before they are compared. Larger: the
            student reaches the teacher's margins with smaller ones of its own.

    Negatives without a teacher's score (or whose positive has none) are left out.
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be above 0, got {scale}")
        self.scale = scale

    @property
    def own_only(self) -> bool:
        return True

    @property
    def needs_teacher(self) -> bool:
        return True

    def forward(self, scores: Scores) -> Tensor:
        student, teacher, there = _compared(scores, "MarginMSE")
        margins = (student[:, :1] - student[:, 1:]) * self.scale
        wanted = teacher[:, :1] - teacher[:, 1:]
        there = there[:, :1] & there[:, 1:]
        squares = (margins - wanted).square().masked_fill(~there, 0)
        return squares.sum() / there.sum().clamp(min=1)


def _compared(scores: Scores, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Student (R, C), teacher (R, C) and which count (R, C), of the R queries that have at least
    two candidates with a teacher's score; 0 stands where none counts. The positive comes first."""
    student, there = scores.own()
    if scores.teacher is None:
        raise ValueError(f"{name} needs a teacher's scores of the candidates: give Scores.teacher")
    there = there & ~scores.teacher.isnan()
    rows = (there.sum(1) >= 2).nonzero().squeeze(1)
    if len(rows) == 0:
        raise ValueError(f"{name}: no query has two candidates with a teacher's score")
    student, teacher, there = student[rows], scores.teacher[rows].to(student.dtype), there[rows]
    return student.masked_fill(~there, 0), teacher.masked_fill(~there, 0), there
