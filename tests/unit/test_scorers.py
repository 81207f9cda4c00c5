"""Scorers against their formulas through (Q, N, Lq, Ld), values, gradients, memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lateint.ragged import Ragged
from lateint.scorers import XTR, MaxSim, Scorer, SmoothMax

LENGTHS = ([3, 1, 4], [2, 5, 0, 7, 1])


def make(lengths: list[int], seed: int, dtype: torch.dtype = torch.float64) -> Ragged:
    draw = torch.Generator().manual_seed(seed)
    items = [torch.randn(n, 6, generator=draw, dtype=torch.float64) for n in lengths]
    values = nn.functional.normalize(torch.cat(items), dim=-1).to(dtype).requires_grad_()
    return Ragged(values, torch.tensor([0, *lengths]).cumsum(0))


def similarities(queries: Ragged, documents: Ragged) -> list[list[Tensor]]:
    return [[a @ b.T for b in documents] for a in queries]


def smooth(queries: Ragged, documents: Ragged, temperature: float) -> Tensor:
    rows = [
        [(pair / temperature).logsumexp(1).sum() * temperature for pair in row]
        for row in similarities(queries, documents)
    ]
    return torch.stack([torch.stack(row) for row in rows])


def xtr(queries: Ragged, documents: Ragged, k: int) -> Tensor:
    """Equation 3 of the paper: the mean over query tokens with a retrieved token in the document."""
    everything = queries.values @ documents.values.T  # (Nq, Nd)
    border = everything.topk(min(k, everything.shape[1]), 1).values[:, -1]
    rows = []
    for q, row in enumerate(similarities(queries, documents)):
        least = border[int(queries.offsets[q]) : int(queries.offsets[q + 1])]
        scores = []
        for pair in row:
            best = pair.max(1).values if pair.shape[1] else pair.new_full((len(pair),), -math.inf)
            found = best >= least
            scores.append(best[found].sum() / max(1, int(found.sum())))
        rows.append(torch.stack(scores))
    return torch.stack(rows)


def best(queries: Ragged, documents: Ragged) -> Tensor:
    return torch.stack(
        [
            torch.stack([pair.amax(1).sum() for pair in row])
            for row in similarities(queries, documents)
        ]
    )


CASES: list[tuple[Scorer, Callable[[Ragged, Ragged], Tensor]]] = [
    (MaxSim(), best),
    (MaxSim(mean=True), lambda q, d: best(q, d) / q.lengths[:, None]),
    (SmoothMax(0.1), lambda q, d: smooth(q, d, 0.1)),
    (SmoothMax(0.1, budget=100), lambda q, d: smooth(q, d, 0.1)),
    (XTR(4), lambda q, d: xtr(q, d, 4)),
    (XTR(4, budget=100), lambda q, d: xtr(q, d, 4)),
    (XTR(1000), lambda q, d: xtr(q, d, 1000)),
]


@pytest.mark.parametrize(
    ("scorer", "formula"), CASES, ids=lambda x: getattr(x, "__name__", repr(x))
)
def test_scores_and_gradients_are_those_of_the_formula(
    scorer: Scorer, formula: Callable[[Ragged, Ragged], Tensor]
) -> None:
    queries, documents = make(LENGTHS[0], 1), make([n for n in LENGTHS[1] if n], 2)
    got, wanted = scorer(queries, documents), formula(queries, documents)
    torch.testing.assert_close(got, wanted)
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(3), dtype=got.dtype)
    both = (queries.values, documents.values)
    ours = torch.autograd.grad((got * weight).sum(), both)
    theirs = torch.autograd.grad((wanted * weight).sum(), both)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("scorer", [MaxSim(), SmoothMax(), XTR(3), MaxSim(mean=True)], ids=repr)
def test_pairs_are_those_of_the_matrix(scorer: Scorer) -> None:
    queries, documents = make(LENGTHS[0], 1), make(LENGTHS[1], 2)
    candidates = torch.tensor([[0, 1, 3], [4, 3, -1], [2, 0, 0]])
    pairs = scorer.pairs(queries, documents, candidates)
    wanted = scorer(queries, documents).gather(1, candidates.clamp(min=0))
    wanted[1, 2] = -math.inf
    torch.testing.assert_close(pairs, wanted)
    finite = pairs[pairs > -math.inf].sum()
    for gradient in torch.autograd.grad(finite, (queries.values, documents.values)):
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("scorer", [MaxSim(), SmoothMax()], ids=repr)
def test_an_empty_document_scores_least(scorer: Scorer) -> None:
    queries, documents = make(LENGTHS[0], 1), make(LENGTHS[1], 2)
    scores = scorer(queries, documents)
    assert (scores[:, 2] == -math.inf).all() and scores[:, [0, 1, 3, 4]].isfinite().all()
    chosen = scores[:, [0, 1, 3, 4]].sum()
    for gradient in torch.autograd.grad(chosen, (queries.values, documents.values)):
        assert gradient.isfinite().all()


def test_an_empty_document_is_never_retrieved() -> None:
    scores = XTR(5)(make(LENGTHS[0], 1), make(LENGTHS[1], 2))
    assert (scores[:, 2] == 0).all() and scores.isfinite().all()


def test_xtr_counts_retrieved_tokens_only() -> None:
    queries = Ragged.from_list([torch.eye(3)[:2]])
    documents = Ragged.from_list(
        [torch.eye(3)[:1] * 0.9, torch.eye(3)[1:2] * 0.8, torch.eye(3)[2:]]
    )
    # token 0 retrieves document 0, token 1 document 1; nobody retrieves document 2
    torch.testing.assert_close(XTR(1)(queries, documents), torch.tensor([[0.9, 0.8, 0.0]]))


def test_the_smooth_maximum_goes_to_the_maximum() -> None:
    queries, documents = make(LENGTHS[0], 1), make([2, 5, 7], 2)
    top = MaxSim()(queries, documents)
    for temperature in (1.0, 0.1, 0.001):
        above = SmoothMax(temperature)(queries, documents) - top
        most = temperature * math.log(7) * queries.lengths[:, None]
        assert (above >= -1e-12).all() and (above <= most + 1e-12).all()


@pytest.mark.parametrize("scorer", [MaxSim(), SmoothMax(), XTR(3)], ids=repr)
def test_half_precision_is_summed_in_single(scorer: Scorer) -> None:
    queries, documents = (make(n, i, torch.bfloat16) for i, n in enumerate(([3, 2], [4, 5, 3])))
    scores = scorer(queries, documents)
    exact = scorer(queries.to(dtype=torch.float32), documents.to(dtype=torch.float32))
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, exact, rtol=1e-6, atol=1e-6)
    scores.sum().backward()
    assert queries.values.grad is not None and queries.values.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("scorer", [SmoothMax(budget=2**16), XTR(16, budget=2**16)], ids=repr)
def test_nothing_of_the_size_of_all_similarities_is_kept(scorer: Scorer) -> None:
    """Bytes that the graph holds for the backward pass, against (Q, N, Lq, Ld) in float32."""
    queries, documents = make([16] * 8, 1, torch.float32), make([64] * 16, 2, torch.float32)
    held: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = scorer(queries, documents)
    everything = 8 * 16 * 16 * 64 * 4
    given = 4 * (queries.values.numel() + 2 * documents.values.numel())
    assert sum(held.values()) - given < everything / 4
    scores.sum().backward()
