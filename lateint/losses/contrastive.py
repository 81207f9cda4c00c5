"""Losses that push a query's positive above its negatives."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from lateint.losses.scores import Loss, Scores


class InfoNCE(Loss):
    """Cross-entropy of the positive among all documents (van den Oord et al. 2018,
    arXiv:1807.03748): mean over queries of -log softmax(scores / temperature) at the positive.

    Args:
        temperature: larger: softer, gradients spread over more negatives. MaxSim adds up to one a
            query token, so 1.0 is usual there; 0.01 to 0.1 for single vectors.
        learnable: train the temperature (its logarithm), starting from `temperature`.
        symmetric: the mean of this and of the same the other way: each positive document's query
            among all queries of the step that have another positive.
        negatives: "all": every other document of the step, other queries' hard negatives
            included; "own": only the query's own candidates (nothing else is scored then).
    """

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        learnable: bool = False,
        symmetric: bool = False,
        negatives: Literal["all", "own"] = "all",
    ) -> None:
        super().__init__()
        if negatives not in ("all", "own"):
            raise ValueError(f'negatives must be "all" or "own", got {negatives!r}')
        if symmetric and negatives == "own":
            raise ValueError('symmetric compares documents over all queries: negatives="all"')
        self.log_temperature = _logarithm("temperature", temperature, learnable)
        self.symmetric = symmetric
        self.negatives = negatives

    @property
    def temperature(self) -> float:
        """As it is now."""
        return math.exp(self.log_temperature.item())

    @property
    def own_only(self) -> bool:
        return self.negatives == "own"

    @property
    def both_ways(self) -> bool:
        return self.symmetric

    def forward(self, scores: Scores) -> Tensor:
        if self.negatives == "own":
            matrix, there = scores.own()
            loss = self._cross_entropy(matrix, there, scores.place_of_positive())
        else:
            there = scores.is_positive() | scores.is_negative()
            loss = self._cross_entropy(scores.matrix, there, scores.positives)
        return (loss + self._documents(scores)) / 2 if self.symmetric else loss

    def _cross_entropy(self, matrix: Tensor, there: Tensor, target: Tensor) -> Tensor:
        # what is absent may be -inf: filled before it meets the temperature, whose gradient would
        # be NaN, and after
        logits = matrix.masked_fill(~there, 0) / self.log_temperature.exp()
        return nn.functional.cross_entropy(logits.masked_fill(~there, -torch.inf), target)

    def _documents(self, scores: Scores) -> Tensor:
        """The other way: (Q, Q), row i the positive of query i against every query."""
        columns = scores.matrix.index_select(1, scores.positives).T
        rival = scores.is_negative().index_select(1, scores.positives).T
        there = rival & (scores.positives[:, None] != scores.positives)
        there.fill_diagonal_(True)
        return self._cross_entropy(columns, there, torch.arange(len(there), device=there.device))


class Sigmoid(Loss):
    """Each pair decided by itself (SigLIP, Zhai et al. 2023, arXiv:2303.15343): the sum over a
    query's documents of -log sigmoid(z (scale * score + bias)), z = 1 at the positive and -1
    elsewhere; mean over queries. Needs no large batch.

    Args:
        scale: how steep; larger: a harder decision. For MaxSim, which adds over query tokens,
            about 1; for single vectors 10 (SigLIP's start).
        bias: start of the bias; low, because nearly all pairs are negatives. For MaxSim it wants
            to stand near minus the usual score of a positive, times `scale`.
        learnable: train both (the scale by its logarithm).
    """

    def __init__(self, scale: float = 10.0, bias: float = -10.0, *, learnable: bool = True) -> None:
        super().__init__()
        self.log_scale = _logarithm("scale", scale, learnable)
        self.bias = nn.Parameter(torch.tensor(float(bias)), requires_grad=learnable)

    def forward(self, scores: Scores) -> Tensor:
        positive = scores.is_positive()
        absent = ~(positive | scores.is_negative())
        logits = scores.matrix.masked_fill(absent, 0) * self.log_scale.exp() + self.bias
        each = nn.functional.softplus(torch.where(positive, -logits, logits))
        return each.masked_fill(absent, 0).sum() / len(logits)


class PairwiseSoftplus(Loss):
    """softplus((negative - positive) / temperature) of a query's positive and one negative at a
    time; mean over queries. The loss of ColPali (Faysse et al. 2024, arXiv:2407.01449, section 4;
    `ColbertPairwiseCELoss` of colpali-engine), there with the hardest.

    Args:
        negatives: "hardest": the highest negative of the step; "all": the mean over all of them;
            "own": the mean over the query's own hard negatives (nothing else is scored then).
        temperature: larger: softer, far negatives weigh more.

    A query without a negative adds 0.
    """

    def __init__(
        self, negatives: Literal["hardest", "all", "own"] = "hardest", *, temperature: float = 1.0
    ) -> None:
        super().__init__()
        if negatives not in ("hardest", "all", "own"):
            raise ValueError(f'negatives must be "hardest", "all" or "own", got {negatives!r}')
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.negatives = negatives
        self.temperature = temperature

    @property
    def own_only(self) -> bool:
        return self.negatives == "own"

    def forward(self, scores: Scores) -> Tensor:
        if self.negatives == "own":
            matrix, there = scores.own()
            there = there.scatter(1, scores.place_of_positive()[:, None], False)
        else:
            matrix, there = scores.matrix, scores.is_negative()
        if self.negatives == "hardest":
            place = matrix.masked_fill(~there, -torch.inf).argmax(1, keepdim=True)
            matrix, there = matrix.gather(1, place), there.gather(1, place)
        # an absent pair is -inf: filled before the difference, which would give it a NaN gradient
        apart = matrix.masked_fill(~there, 0) - scores.positive()[:, None]
        each = nn.functional.softplus(apart / self.temperature).masked_fill(~there, 0)
        return (each.sum(1) / there.sum(1).clamp(min=1)).mean()


def _logarithm(name: str, value: float, learnable: bool) -> nn.Parameter:
    if not value > 0:
        raise ValueError(f"{name} must be above 0, got {value}")
    return nn.Parameter(torch.tensor(math.log(value)), requires_grad=learnable)
