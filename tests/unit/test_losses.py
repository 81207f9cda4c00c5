"""Losses against their formulas written out, values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lateint.losses import (
    KL,
    Filtered,
    InfoNCE,
    Loss,
    MarginMSE,
    PairwiseSoftplus,
    Scores,
    Sigmoid,
    Targets,
    duplicates,
    likely_positives,
)

Q, N, C = 4, 9, 3


def make(seed: int = 0) -> Scores:
    """4 queries, 9 documents; query 2 has one hard negative less, and one pair is excluded."""
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(Q, N, generator=draw, dtype=torch.float64).requires_grad_()
    positives = torch.tensor([0, 3, 5, 8])
    candidates = torch.tensor([[0, 1, 2], [3, 4, 0], [5, 6, -1], [8, 7, 6]])
    teacher = torch.randn(Q, C, generator=draw, dtype=torch.float64)
    teacher[2, 2] = math.nan
    excluded = torch.zeros(Q, N, dtype=torch.bool)
    excluded[0, 4] = excluded[0, 0] = True  # the second says nothing: it is the positive
    excluded[3, 6] = True
    return Scores(matrix, positives, candidates, teacher, excluded)


def columns(scores: Scores, q: int) -> list[int]:
    """The documents that count for query q, its positive first."""
    assert scores.excluded is not None
    own = int(scores.positives[q])
    return [own, *(j for j in range(N) if j != own and not scores.excluded[q, j])]


def candidates(scores: Scores, q: int) -> list[tuple[int, int]]:
    """(place, column) of the candidates that count, the positive first."""
    assert scores.candidates is not None and scores.excluded is not None
    row = scores.candidates[q].tolist()
    return [
        (c, j)
        for c, j in enumerate(row)
        if j >= 0 and (j == int(scores.positives[q]) or not scores.excluded[q, j])
    ]


def check(loss: Loss, formula: Callable[[Scores], Tensor], scores: Scores) -> None:
    """Equal numbers, equal gradients with respect to the matrix, numerically right ones too."""
    got = loss.double()(scores)
    wanted = formula(scores)
    assert got.shape == ()
    torch.testing.assert_close(got, wanted)
    (one,) = torch.autograd.grad(got, scores.matrix)
    (two,) = torch.autograd.grad(wanted, scores.matrix)
    torch.testing.assert_close(one, two)
    assert one.abs().sum() > 0


def infonce(
    scores: Scores, temperature: float | Tensor, names: Callable[[Scores, int], list[int]]
) -> Tensor:
    rows = [scores.matrix[q, names(scores, q)] / temperature for q in range(Q)]
    return -torch.stack([row[0] - row.exp().sum().log() for row in rows]).mean()


def test_infonce() -> None:
    scores = make()
    check(InfoNCE(0.5), lambda s: infonce(s, 0.5, columns), scores)


def test_infonce_of_own_candidates() -> None:
    names = lambda s, q: [j for _, j in candidates(s, q)]  # noqa: E731
    check(InfoNCE(0.5, negatives="own"), lambda s: infonce(s, 0.5, names), make())


def test_symmetric_infonce_takes_documents_over_queries_too() -> None:
    def formula(s: Scores) -> Tensor:
        other = []
        for q in range(Q):
            j = int(s.positives[q])
            assert s.excluded is not None
            asked = [q, *(p for p in range(Q) if p != q and not s.excluded[p, j])]
            row = s.matrix[asked, j] / 0.5
            other.append(row.exp().sum().log() - row[0])
        return (infonce(s, 0.5, columns) + torch.stack(other).mean()) / 2

    check(InfoNCE(0.5, symmetric=True), formula, make())


def test_symmetric_infonce_does_not_set_queries_of_one_document_against_each_other() -> None:
    matrix = torch.tensor([[5.0, 0.0], [5.0, 0.0]])
    loss = InfoNCE(symmetric=True)(Scores(matrix, torch.tensor([0, 0])))
    one_way = InfoNCE()(Scores(matrix, torch.tensor([0, 0])))
    torch.testing.assert_close(loss, one_way / 2)  # no rival query, so the other way costs nothing


def test_a_learnable_temperature_learns() -> None:
    loss = InfoNCE(0.5, learnable=True).double()
    loss(make()).backward()
    gradient = loss.log_temperature.grad
    assert gradient is not None
    temperature = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    infonce(make(), temperature, columns).backward()
    assert temperature.grad is not None  # the derivative by log T is T times the derivative by T
    assert gradient.item() == pytest.approx(0.5 * temperature.grad.item(), rel=1e-6)
    assert loss.temperature == pytest.approx(0.5)
    assert not InfoNCE(0.5).log_temperature.requires_grad


def test_sigmoid() -> None:
    def formula(s: Scores) -> Tensor:
        total = s.matrix.new_zeros(())
        for q in range(Q):
            for place, j in enumerate(columns(s, q)):
                sign = 1 if place == 0 else -1
                total = total - (1 / (1 + (-sign * (2 * s.matrix[q, j] - 1)).exp())).log()
        return total / Q

    check(Sigmoid(2.0, -1.0), formula, make())
    loss = Sigmoid(2.0, -1.0).double()
    loss(make()).backward()
    assert loss.bias.grad is not None and loss.log_scale.grad is not None
    assert loss.bias.grad.abs() > 0 and loss.log_scale.grad.abs() > 0


def softplus(x: Tensor) -> Tensor:
    return (1 + x.exp()).log()


@pytest.mark.parametrize("negatives", ["hardest", "all", "own"])
def test_pairwise_softplus(negatives: str) -> None:
    def formula(s: Scores) -> Tensor:
        each = []
        for q in range(Q):
            if negatives == "own":
                names = [j for _, j in candidates(s, q)]
            else:
                names = columns(s, q)
            row = s.matrix[q, names]
            rivals = row[1:].max()[None] if negatives == "hardest" else row[1:]
            each.append(softplus((rivals - row[0]) / 0.5).mean())
        return torch.stack(each).mean()

    check(PairwiseSoftplus(negatives, temperature=0.5), formula, make())  # type: ignore[arg-type]


@pytest.mark.parametrize("normalise", [False, True])
def test_kl(normalise: bool) -> None:
    def formula(s: Scores) -> Tensor:
        assert s.teacher is not None
        each = []
        for q in range(Q):
            names = [(c, j) for c, j in candidates(s, q) if not s.teacher[q, c].isnan()]
            student = s.matrix[q, [j for _, j in names]]
            if normalise:
                student = (student - student.min()) / (student.max() - student.min())
            t = (s.teacher[q, [c for c, _ in names]] / 2).softmax(0)
            each.append((t * (t.log() - (student / 0.5).softmax(0).log())).sum())
        return torch.stack(each).mean()

    check(KL(2.0, student_temperature=0.5, normalise=normalise), formula, make())


def test_margin_mse() -> None:
    def formula(s: Scores) -> Tensor:
        assert s.teacher is not None
        squares = []
        for q in range(Q):
            for c, j in candidates(s, q)[1:]:
                if not s.teacher[q, c].isnan():
                    own = s.matrix[q, int(s.positives[q])] - s.matrix[q, j]
                    squares.append((3 * own - (s.teacher[q, 0] - s.teacher[q, c])) ** 2)
        return torch.stack(squares).mean()

    check(MarginMSE(3.0), formula, make())


LOSSES: list[Loss] = [
    InfoNCE(learnable=True),
    InfoNCE(learnable=True, symmetric=True),
    InfoNCE(learnable=True, negatives="own"),
    Sigmoid(),
    PairwiseSoftplus(),
    PairwiseSoftplus("all"),
    PairwiseSoftplus("own"),
    KL(),
    KL(normalise=True),
    MarginMSE(),
    Filtered(InfoNCE(), margin=0.1),
]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_gradients_are_finite_where_documents_are_absent(loss: Loss) -> None:
    """-inf is an empty document's score; rows may have no negative left."""
    matrix = torch.randn(2, 4, generator=torch.Generator().manual_seed(1))
    matrix[:, 3] = -math.inf
    matrix.requires_grad_()
    candidates = torch.tensor([[0, 2, 3], [1, -1, -1]])
    teacher = torch.tensor([[1.0, 0.0, math.nan], [1.0, math.nan, math.nan]])
    excluded = torch.tensor([[False, False, False, True], [True, True, True, True]])
    value = loss.float()(Scores(matrix, torch.tensor([0, 1]), candidates, teacher, excluded))
    value.backward()
    assert value.isfinite() and matrix.grad is not None and matrix.grad.isfinite().all()
    for parameter in loss.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
        parameter.grad = None


OWN_ONLY = [loss for loss in LOSSES if loss.own_only]


@pytest.mark.parametrize("loss", OWN_ONLY, ids=lambda loss: type(loss).__name__)
def test_a_loss_that_reads_own_candidates_only_says_so(loss: Loss) -> None:
    """On the (Q, C) matrix of `Targets.own` it must be what it is on (Q, N)."""
    assert len(OWN_ONLY) == 5
    scores = make()
    targets = Targets(scores.positives, scores.candidates, scores.teacher, scores.excluded)
    assert scores.candidates is not None
    matrix = scores.matrix.gather(1, scores.candidates.clamp(min=0))
    matrix = matrix.masked_fill(scores.candidates < 0, -math.inf)
    torch.testing.assert_close(
        loss.double()(targets.own().scores(matrix)), loss.double()(scores), rtol=1e-9, atol=1e-9
    )


def test_targets_by_column_are_those_of_a_table() -> None:
    targets = Targets.by_column(2, negatives=2)
    assert targets.positives.tolist() == [0, 1]
    assert targets.candidates is not None
    assert targets.candidates.tolist() == [[0, 2, 4], [1, 3, 5]]


def test_duplicates_are_no_negatives() -> None:
    # query 0 and 2 are the same; document 3 is document 0 again
    asked = torch.tensor([7, 8, 7])
    documents = torch.tensor([50, 51, 52, 50])
    excluded = duplicates(asked, documents, torch.tensor([0, 1, 2]))
    assert excluded.tolist() == [
        [False, False, True, True],  # the answer of query 2 and its own again
        [False, False, False, False],
        [True, False, False, True],
    ]


def test_likely_positives_by_the_student() -> None:
    matrix = torch.tensor([[10.0, 9.6, 9.4, 12.0], [9.4, -10.0, -10.4, -10.6]])
    scores = Scores(matrix, torch.tensor([0, 1]))
    absolute = likely_positives(scores, margin=0.5).excluded
    relative = likely_positives(scores, relative=0.95).excluded
    wanted = [[False, True, False, True], [True, False, True, False]]
    assert absolute is not None and absolute.tolist() == wanted
    assert relative is not None and relative.tolist() == wanted  # 95 % of -10 lies at -10.5
    none = likely_positives(scores, margin=-30.0).excluded
    assert none is not None and not none.any()


def test_likely_positives_by_the_teacher() -> None:
    scores = make()
    assert scores.teacher is not None and scores.excluded is not None
    scores.teacher[0] = torch.tensor([1.0, 0.9, 0.5])
    scores.teacher[1:] = torch.tensor([[1.0, 0.0, 0.0]] * 3)
    scores.teacher[2, 2] = math.nan
    excluded = likely_positives(scores, margin=0.2, by="teacher").excluded
    assert excluded is not None
    before = scores.excluded.clone()
    before[0, 0], before[0, 1] = excluded[0, 0], True
    assert torch.equal(excluded, before)


def test_a_filtered_loss_is_the_loss_without_those_pairs() -> None:
    scores = Scores(torch.tensor([[2.0, 1.9, 0.0], [0.0, 1.0, 3.0]]), torch.tensor([0, 1]))
    wanted = InfoNCE()(
        Scores(torch.tensor([[2.0, -math.inf, 0.0], [0.0, 1.0, -math.inf]]), scores.positives)
    )
    torch.testing.assert_close(Filtered(InfoNCE(), margin=0.5)(scores), wanted)


def test_errors_say_what_was_wanted() -> None:
    matrix, positives = torch.zeros(2, 3), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="positives must be int64"):
        Scores(matrix, torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"must be \(2, N\)"):
        Scores(torch.zeros(3, 3), positives)
    with pytest.raises(ValueError, match=r"excluded must be bool \(2, 3\)"):
        Scores(matrix, positives, excluded=torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="belong to candidates"):
        Scores(matrix, positives, teacher=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"give Targets\.candidates"):
        MarginMSE()(Scores(matrix, positives))
    with pytest.raises(ValueError, match=r"KL needs a teacher's scores"):
        KL()(Scores(matrix, positives, torch.tensor([[0, 1], [1, 2]])))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        InfoNCE(0.0)
    with pytest.raises(ValueError, match="margin or relative"):
        Filtered(InfoNCE())
