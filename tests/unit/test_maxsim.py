"""MaxSim against a triple loop, its gradients against the dense formula, its memory against both.

The memory test runs scripts/bench_maxsim.py, each side in a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import lateint.maxima
from lateint.maxsim import maxsim, maxsim_pairs
from lateint.ragged import Ragged

BENCH = Path(__file__).parents[2] / "scripts" / "bench_maxsim.py"
SIZES = st.integers(1, 5)
BUDGETS = st.sampled_from([1, 100, 1000, None])  # bytes; 1: a tile of one number


def one_score(query: Tensor, document: Tensor) -> float:
    """The definition, in loops, in float64: real tokens only."""
    total = 0.0
    for q in query.double().tolist():
        best = -math.inf
        for d in document.double().tolist():
            best = max(best, sum(a * b for a, b in zip(q, d, strict=True)))
        total += best
    return total


def dense(queries: Tensor, documents: Tensor, query_mask: Tensor, document_mask: Tensor) -> Tensor:
    """The formula through (Bq, Bd, Lq, Ld)."""
    similarity = torch.einsum("qid,kjd->qkij", queries, documents)
    lowest = torch.finfo(similarity.dtype).min
    best = similarity.masked_fill(~document_mask[None, :, None], lowest).max(-1).values
    return best.masked_fill(~query_mask[:, None], 0).sum(-1)


@st.composite
def padded(draw: st.DrawFn, dim: int, holes: bool = True) -> tuple[Tensor, Tensor]:
    """Tokens (B, L, D) with NaN under a random mask: whatever reads them shows."""
    count, length = draw(SIZES), draw(SIZES)
    flags = st.lists(st.booleans(), min_size=length, max_size=length)
    mask = torch.tensor(draw(st.lists(flags, min_size=count, max_size=count)))
    if not holes:
        mask[:, 0] = True
    seed = draw(st.integers(0, 2**31))
    tokens = torch.randn(count, length, dim, generator=torch.Generator().manual_seed(seed))
    return tokens.masked_fill(~mask[..., None], math.nan), mask


@given(padded(3), padded(3), BUDGETS, st.booleans())
@settings(max_examples=50, deadline=None)
def test_all_pairs_against_a_triple_loop(
    query: tuple[Tensor, Tensor], document: tuple[Tensor, Tensor], budget: int | None, grad: bool
) -> None:
    (q, qm), (d, dm) = query, document
    wanted = torch.tensor(
        [[one_score(q[i][qm[i]], d[j][dm[j]]) for j in range(len(d))] for i in range(len(q))]
    )
    scores = maxsim(q.requires_grad_(grad), d, qm, dm, budget=budget)
    torch.testing.assert_close(scores, wanted)
    ragged = (Ragged.from_padded(q, qm), Ragged.from_padded(d, dm))
    torch.testing.assert_close(maxsim(*ragged, budget=budget), wanted)


@given(padded(3), padded(3), BUDGETS, st.booleans())
@settings(max_examples=50, deadline=None)
def test_pairs_against_a_triple_loop(
    query: tuple[Tensor, Tensor], document: tuple[Tensor, Tensor], budget: int | None, grad: bool
) -> None:
    (q, qm), (d, dm) = query, document
    count = min(len(q), len(d))
    q, qm, d, dm = q[:count], qm[:count], d[:count], dm[:count]
    wanted = torch.tensor([one_score(q[i][qm[i]], d[i][dm[i]]) for i in range(count)])
    scores = maxsim_pairs(q.requires_grad_(grad), d, qm, dm, budget=budget)
    torch.testing.assert_close(scores, wanted)
    ragged = (Ragged.from_padded(q, qm), Ragged.from_padded(d, dm))
    torch.testing.assert_close(maxsim_pairs(*ragged, budget=budget), wanted)


@given(st.integers(1, 4), st.integers(1, 4), BUDGETS)
@settings(max_examples=20, deadline=None)
def test_several_documents_a_query(count: int, each: int, budget: int | None) -> None:
    q, d = torch.randn(count, 3, 4), torch.randn(count, each, 5, 4)
    mask = torch.rand(count, each, 5) < 0.7
    wanted = torch.stack([maxsim(q[i : i + 1], d[i], None, mask[i])[0] for i in range(count)])
    torch.testing.assert_close(maxsim_pairs(q, d, None, mask, budget=budget), wanted)


@given(padded(4), padded(4, holes=False), BUDGETS)
@settings(max_examples=40, deadline=None)
def test_gradients_against_autograd_on_the_dense_formula(
    query: tuple[Tensor, Tensor], document: tuple[Tensor, Tensor], budget: int | None
) -> None:
    (q, qm), (d, dm) = query, document
    ours = [q.clone().requires_grad_(), d.clone().requires_grad_()]
    # the dense formula cannot have NaN under its masks
    theirs = [q.nan_to_num().requires_grad_(), d.nan_to_num().requires_grad_()]
    weight = torch.randn(len(q), len(d))
    (maxsim(ours[0], ours[1], qm, dm, budget=budget) * weight).sum().backward()
    (dense(theirs[0], theirs[1], qm, dm) * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@given(padded(4), padded(4, holes=False), BUDGETS)
@settings(max_examples=40, deadline=None)
def test_gradients_of_pairs_against_autograd_on_the_dense_formula(
    query: tuple[Tensor, Tensor], document: tuple[Tensor, Tensor], budget: int | None
) -> None:
    count = min(len(query[0]), len(document[0]))
    q, qm, d, dm = (part[:count] for part in (*query, *document))
    ours = [q.clone().requires_grad_(), d.clone().requires_grad_()]
    theirs = [q.nan_to_num().requires_grad_(), d.nan_to_num().requires_grad_()]
    weight = torch.randn(count)
    (maxsim_pairs(ours[0], ours[1], qm, dm, budget=budget) * weight).sum().backward()
    (dense(theirs[0], theirs[1], qm, dm).diagonal() * weight).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("budget", [1, 300, None])
def test_gradcheck_in_float64(budget: int | None) -> None:
    torch.manual_seed(0)
    q = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    d = torch.randn(4, 5, 2, dtype=torch.float64, requires_grad=True)
    four = torch.randn(3, 2, 5, 2, dtype=torch.float64, requires_grad=True)
    qm, dm = torch.rand(3, 4) < 0.7, torch.rand(4, 5) < 0.7
    dm[:, 0] = True

    def pairs(a: Tensor, b: Tensor) -> Tensor:
        return maxsim_pairs(a, b, qm, budget=budget)

    def ragged(a: Tensor, b: Tensor) -> Tensor:
        parts = (Ragged.from_padded(a, qm), Ragged.from_padded(b, dm))
        return maxsim(*parts, budget=budget)

    assert torch.autograd.gradcheck(lambda a, b: maxsim(a, b, qm, dm, budget=budget), (q, d))
    assert torch.autograd.gradcheck(pairs, (q, four))
    assert torch.autograd.gradcheck(ragged, (q, d))


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=6), budget=BUDGETS)
def test_gradients_through_ragged_documents_are_those_through_padded_ones(
    lengths: list[int], budget: int | None
) -> None:
    draw = torch.Generator().manual_seed(sum(lengths))
    rows = torch.randn(sum(lengths), 3, generator=draw, dtype=torch.float64)
    documents = Ragged(rows.requires_grad_(), torch.tensor([0, *lengths]).cumsum(0))
    queries = torch.randn(2, 4, 3, generator=draw, dtype=torch.float64).requires_grad_()
    ours = maxsim(queries, documents, budget=budget)
    tokens, mask = documents.pad()
    padded = maxsim(queries, tokens, None, mask, budget=budget)
    torch.testing.assert_close(ours, padded)
    weight = torch.randn(ours.shape, generator=draw, dtype=torch.float64)
    real = torch.tensor([n > 0 for n in lengths])
    one, two = ((scores * weight)[:, real].sum() for scores in (ours, padded))
    both = (queries, documents.values)
    pairs = (torch.autograd.grad(x, both, materialize_grads=True) for x in (one, two))
    for a, b in zip(*pairs, strict=True):
        torch.testing.assert_close(a, b)


def test_padding_cannot_beat_a_negative_match() -> None:
    query, document = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[-1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, False]])
    assert maxsim(query, document, None, mask).item() == -1.0
    assert maxsim_pairs(query, document, None, mask).item() == -1.0


def test_nothing_to_match() -> None:
    q = torch.randn(2, 3, 4, requires_grad=True)
    d = torch.full((2, 2, 4), math.nan)
    d[0] = 1.0
    d.requires_grad_()
    none = torch.tensor([[True, True], [False, False]])
    scores = maxsim(q, d, torch.tensor([[True] * 3, [False] * 3]), none)
    assert scores[0, 1] == -math.inf and scores[1].tolist() == [0.0, 0.0]
    torch.softmax(scores, 1)[0, 0].backward(retain_graph=True)
    scores[:, 0].sum().backward()
    assert q.grad is not None and q.grad.isfinite().all() and q.grad[0].any()
    assert not q.grad[1].any()
    assert d.grad is not None and not d.grad[1].any()

    assert maxsim(q, torch.zeros(3, 0, 4)).tolist() == [[-math.inf] * 3] * 2
    assert maxsim(q, torch.zeros(0, 2, 4)).shape == (2, 0)
    assert maxsim(torch.zeros(0, 3, 4), d).shape == (0, 2)
    assert maxsim(q, Ragged.from_list([], dim=4)).shape == (2, 0)
    assert maxsim_pairs(q[:0], d[:0]).shape == (0,)

    q.grad = None
    for scores in (
        maxsim(q, torch.zeros(3, 0, 4)),
        maxsim(q, d, torch.zeros(2, 3, dtype=torch.bool)),
        maxsim_pairs(q, d[:, :0]),
    ):
        scores.masked_fill(scores.isinf(), 0).sum().backward()
    assert q.grad is not None and not q.grad.any()


def test_a_tie_gives_the_first_maximum_the_gradient() -> None:
    q = torch.ones(1, 1, 2)
    d = torch.tensor([[[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]], requires_grad=True)
    maxsim(q, d).sum().backward()
    assert d.grad is not None
    assert d.grad[0].tolist() == [[0.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, d = torch.randn(4, 32, 64).to(dtype), torch.randn(3, 40, 64).to(dtype)
    wanted = maxsim(q.double(), d.double()).float()
    q.requires_grad_(), d.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        scores = maxsim(q, d)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, wanted, rtol=1e-6, atol=1e-3)
    scores.sum().backward()
    assert q.grad is not None and q.grad.dtype == dtype
    assert d.grad is not None and d.grad.dtype == dtype
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(maxsim(q, d), wanted, rtol=1e-6, atol=1e-3)
        ragged = maxsim(q, Ragged.from_padded(d))
    torch.testing.assert_close(ragged, wanted, rtol=1e-6, atol=1e-3)


def test_only_the_positions_are_kept_for_backward() -> None:
    kept: list[torch.Size] = []
    q = torch.randn(4, 6, 8, requires_grad=True)
    d = torch.randn(5, 50, 8, requires_grad=True)

    def see(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(see, lambda x: x):
        maxsim(q, d, None, torch.rand(5, 50) < 0.9)
    assert max(math.prod(shape) for shape in kept) <= max(d.numel(), 4 * 5 * 6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, 5)), "width 4, documents 5"),
        ((torch.zeros(3, 4), torch.zeros(2, 3, 4)), "queries must be"),
        ((torch.zeros(2, 3, 4), torch.zeros(3, 4)), "documents must be"),
        ((torch.zeros(2, 3, 4).int(), torch.zeros(2, 3, 4)), "floating point"),
        ((torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.ones(2, 3)), "must be bool"),
        ((torch.zeros(2, 3, 4), Ragged.from_list([], dim=4), None, torch.ones(1)), "Ragged"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        maxsim(*arguments)
    with pytest.raises(ValueError, match=message):
        maxsim_pairs(*arguments)


def test_counts_and_budgets_that_do_not_fit_are_refused() -> None:
    q = torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match="as many documents"):
        maxsim_pairs(q, torch.zeros(3, 3, 4))
    with pytest.raises(ValueError, match="positive"):
        maxsim(q, q, budget=0)


def test_tiles_keep_to_their_size() -> None:
    for groups, rows, count, width, size in [
        (3, 5, 7, 11, 100),
        (1, 50, 4, 8, 64),
        (9, 2, 2, 3, 30),
    ]:
        seen = torch.zeros(groups, rows, count)
        for g, r, d in lateint.maxima._tiles(groups, rows, count, width, size):
            seen[g, r, d] += 1
            assert seen[g, r, d].numel() * width <= size
        assert (seen == 1).all()


def test_peak_memory_of_a_training_step_against_the_dense_formula() -> None:
    """B = 32, Lq = 32, Ld = 1024, D = 128, forward and backward, the gradients counted."""
    command = [sys.executable, str(BENCH), "--no-record", "--repeat", "0"]
    path = os.pathsep.join([str(BENCH.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    print(f"memory: dense {line['dense']}, ours {line['ours']}: {line['memory_ratio']} x")
    assert line["memory_ratio"] >= 10, line
    assert max(line["max_abs_difference"].values()) < 1e-4, line
