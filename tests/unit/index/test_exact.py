"""The numpy MaxSim and the ranking, against definitions, whatever the blocks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_helpers import matrices, triple_loop

from lateint.index.search import exact
from lateint.index.search.rank import BATCH, top, top_groups
from lateint.index.tokens import Tokens, as_tokens


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_maxsim_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(exact, "rows", lambda queries: step)
    queries, documents = matrices(0, 5, 6), matrices(1, 11, 8)
    wanted = [[triple_loop(q, d) for d in documents] for q in queries]
    got = exact.maxsim(as_tokens(queries, 8, "query"), as_tokens(documents, 8, "document"))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_a_document_longer_than_a_block() -> None:
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((3, 4, 16)).astype(np.float32)
    document = rng.standard_normal((100_000, 16)).astype(np.float16)
    assert exact.rows(as_tokens(queries, 16, "query")) < len(document)
    got = exact.maxsim(as_tokens(queries, 16, "query"), as_tokens([document], 16, "document"))
    wanted = (queries @ document.astype(np.float32).T).max(axis=2).sum(axis=1)
    np.testing.assert_allclose(got[:, 0], wanted, rtol=1e-5)


@given(st.lists(st.integers(1, 20), max_size=30), st.integers(1, 40))
def test_blocks_cover_once_and_stay_within_the_limit(lengths: list[int], limit: int) -> None:
    runs = list(exact.blocks(np.array(lengths, np.int64), limit))
    assert [i for first, last in runs for i in range(first, last)] == list(range(len(lengths)))
    assert all(sum(lengths[a:b]) <= limit or b - a == 1 for a, b in runs)


def test_query_groups_bound_the_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "MATRIX", 100)
    queries = Tokens(np.zeros((500, 4), np.float32), np.arange(0, 501, 10))
    groups = list(exact.query_groups(queries, 30))
    assert [i for a, b in groups for i in range(a, b)] == list(range(50))
    assert max(b - a for a, b in groups) == 3


@settings(max_examples=60)
@given(st.lists(st.integers(0, 5), max_size=40), st.integers(1, 12), st.integers(1, 6))
def test_ranking_is_stable(values: list[int], k: int, groups: int) -> None:
    scores = np.array(values, np.float32)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert top(scores, k).tolist() == order[:k]
    seen: set[int] = set()
    wanted = [i for i in order if i % groups not in seen and not seen.add(i % groups)]  # type: ignore[func-returns-value]
    got = top_groups(scores, k, lambda positions: [int(p) % groups for p in positions])
    assert got.tolist() == wanted[:k]


def test_groups_are_found_beyond_the_first_batch() -> None:
    scores = -np.arange(3 * BATCH, dtype=np.float32)
    got = top_groups(scores, 2, lambda positions: [int(p) < 2 * BATCH for p in positions])
    assert got.tolist() == [0, 2 * BATCH]
