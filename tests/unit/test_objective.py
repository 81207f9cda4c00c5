"""Objectives against losses and scorers put together by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lateint.losses import KL, InfoNCE, MarginMSE, PairwiseSoftplus, Scores, Targets
from lateint.maxsim import maxsim
from lateint.objective import Distil, Objective, narrow
from lateint.pooling import shorten
from lateint.ragged import Ragged
from lateint.scorers import SmoothMax


def make(lengths: list[int], seed: int, unit: bool = True) -> Ragged:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(sum(lengths), 8, generator=draw, dtype=torch.float64)
    if unit:
        values = nn.functional.normalize(values, dim=-1)
    return Ragged(values.requires_grad_(), torch.tensor([0, *lengths]).cumsum(0))


def step() -> tuple[dict[str, Ragged], dict[str, Ragged], Targets]:
    """Two queries of uneven weights, two positives, two hard negatives with a teacher's scores."""
    queries = {"multi": make([3, 2], 1, unit=False), "single": make([1, 1], 2)}
    documents = {"multi": make([4, 9, 2, 6], 3), "single": make([1] * 4, 4)}
    teacher = torch.tensor([[2.0, 1.0], [3.0, -1.0]], dtype=torch.float64)
    return queries, documents, Targets.by_column(2, 1, teacher)


def gradients(loss: Tensor, *vectors: Ragged) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [v.values for v in vectors]))


def test_an_objective_is_its_loss_on_its_scorer() -> None:
    queries, documents, targets = step()
    multi = Objective(InfoNCE(0.3), weight=2.0)(queries, documents, targets)
    scores = targets.scores(maxsim(queries["multi"], documents["multi"]))
    torch.testing.assert_close(multi, 2 * InfoNCE(0.3)(scores))
    single = Objective(InfoNCE(0.3), "single")(queries, documents, targets)
    dots = queries["single"].values @ documents["single"].values.T
    torch.testing.assert_close(single, InfoNCE(0.3)(targets.scores(dots)))
    smooth = Objective(InfoNCE(0.3), scorer=SmoothMax(0.1))(queries, documents, targets)
    matrix = SmoothMax(0.1)(queries["multi"], documents["multi"])
    torch.testing.assert_close(smooth, InfoNCE(0.3)(targets.scores(matrix)))


@pytest.mark.parametrize("loss", [KL(), MarginMSE(), InfoNCE(negatives="own")])
def test_a_loss_on_own_candidates_gives_what_all_pairs_would(loss: nn.Module) -> None:
    queries, documents, targets = step()
    got = Objective(loss)(queries, documents, targets)  # type: ignore[arg-type]
    wanted = loss(targets.scores(maxsim(queries["multi"], documents["multi"])))
    torch.testing.assert_close(got, wanted)
    both = (queries["multi"], documents["multi"])
    for a, b in zip(gradients(got, *both), gradients(wanted, *both), strict=True):
        torch.testing.assert_close(a, b)


def test_matryoshka_is_the_mean_over_widths_and_token_counts() -> None:
    queries, documents, targets = step()
    objective = Objective(InfoNCE(), dims=(None, 4, 2), tokens=(None, 3), rule="runs")
    parts = []
    for count in (None, 3):
        for dim in (8, 4, 2):
            found = shorten(documents["multi"], count, "runs")
            a, b = narrow(queries["multi"], dim), narrow(found, dim)
            parts.append(InfoNCE()(targets.scores(maxsim(a, b))))
    got = objective(queries, documents, targets)
    torch.testing.assert_close(got, torch.stack(parts).mean())
    assert len({round(float(part.detach()), 6) for part in parts}) == 6  # it matters
    both = (queries["multi"], documents["multi"])
    wanted = gradients(torch.stack(parts).mean(), *both)
    for a, b in zip(gradients(got, *both), wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_narrow_rows_keep_their_length() -> None:
    rows = make([3, 2], 1, unit=False)
    narrowed = narrow(rows, 3)
    torch.testing.assert_close(narrowed.values.norm(dim=1), rows.values.norm(dim=1))
    cosine = nn.functional.cosine_similarity(narrowed.values, rows.values[:, :3])
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    assert narrow(rows, None) is rows


def test_distil_makes_the_student_like_the_teacher() -> None:
    queries, documents, targets = step()
    goal = Distil("multi", "single", KL(2.0, student_temperature=0.1), weight=3.0)
    got = goal(queries, documents, targets)
    teacher = maxsim(queries["multi"], documents["multi"]).detach()
    student = queries["single"].values @ documents["single"].values.T
    t, s = (teacher / 2).softmax(1), (student / 0.1).softmax(1)
    torch.testing.assert_close(got, 3 * (t * (t / s).log()).sum(1).mean())
    got.backward()
    assert queries["multi"].values.grad is None and documents["multi"].values.grad is None
    gradient = documents["single"].values.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_distil_by_margins_takes_the_positive_first() -> None:
    queries, documents, targets = step()
    got = Distil(loss=MarginMSE())(queries, documents, targets)
    teacher = maxsim(queries["multi"], documents["multi"]).detach()
    student = queries["single"].values @ documents["single"].values.T
    squares = [
        ((student[q, q] - student[q, j]) - (teacher[q, q] - teacher[q, j])) ** 2
        for q in range(2)
        for j in range(4)
        if j != q
    ]
    torch.testing.assert_close(got, torch.stack(squares).mean())


def test_what_a_goal_reads_is_known_before_the_step() -> None:
    assert Objective(InfoNCE(), "single").heads == ("single",)
    assert Distil("multi", "single").heads == ("multi", "single")
    assert Objective(InfoNCE(symmetric=True)).needs_all_queries
    assert not Objective(InfoNCE()).needs_all_queries
    assert not Objective(KL()).needs_all_documents
    assert Objective(PairwiseSoftplus()).needs_all_documents and Distil().needs_all_documents


def test_parameters_of_losses_are_the_objectives() -> None:
    goals = nn.ModuleList([Objective(InfoNCE(learnable=True)), Distil()])
    assert [name for name, p in goals.named_parameters() if p.requires_grad] == [
        "0.loss.log_temperature"
    ]


def test_errors_say_what_was_wanted() -> None:
    queries, documents, targets = step()
    with pytest.raises(ValueError, match="did you mean 'multi'"):
        Objective(InfoNCE(), "mutli")(queries, documents, targets)
    with pytest.raises(ValueError, match="dims must be numbers"):
        Objective(InfoNCE(), dims=(0,))
    with pytest.raises(ValueError, match="tokens must be numbers"):
        Objective(InfoNCE(), tokens=())
    with pytest.raises(ValueError, match="did you mean 'runs'"):
        Objective(InfoNCE(), rule="run")
    with pytest.raises(ValueError, match="same head"):
        Distil("multi", "multi")
    with pytest.raises(ValueError, match=r"give Targets\.candidates"):
        Objective(KL())(queries, documents, Targets(targets.positives))
    with pytest.raises(ValueError, match=r"prefix of 9 numbers"):
        Objective(InfoNCE(), dims=(9,))(queries, documents, targets)


def test_scores_are_made_on_the_matrix_given() -> None:
    """A third party's loss needs `Scores` and nothing else."""

    class Best(InfoNCE):
        def forward(self, scores: Scores) -> Tensor:
            return -scores.positive().mean()

    queries, documents, targets = step()
    got = Objective(Best())(queries, documents, targets)
    matrix = maxsim(queries["multi"], documents["multi"])
    torch.testing.assert_close(got, -(matrix[0, 0] + matrix[1, 1]) / 2)
