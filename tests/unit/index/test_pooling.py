from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from index_helpers import matrix

from lateint.index import Index
from lateint.index.pooling import pool_tokens
from lateint.index.tokens import Tokens, as_tokens
from lateint.merging import TOGETHER, merge


def test_copies_of_a_token_become_that_token_in_order() -> None:
    kinds = matrix(np.random.default_rng(0), 5, 32)
    order = [0, 1, 0, 2, 1, 3, 4, 3, 2, 4]  # each kind twice
    pooled = pool_tokens(as_tokens([kinds[order]], 32, "document"), 2)
    assert pooled.offsets.tolist() == [0, 5]
    assert np.allclose(pooled.values, kinds, atol=1e-6)


def test_sizes_lengths_and_protected_tokens() -> None:
    rng = np.random.default_rng(1)
    documents = [matrix(rng, n, 48) for n in (1, 2, 7, 100)]
    documents[2] = documents[2] * 3  # length is weight: it is kept
    given = as_tokens(documents, 48, "document")
    pooled = pool_tokens(given, 3)
    assert pooled.lengths.tolist() == [1, 1, 3, 34]
    assert np.allclose(np.linalg.norm(pooled[3], axis=1), 1, atol=1e-3)
    assert np.allclose(np.linalg.norm(pooled[2], axis=1), 3, atol=3e-3)
    kept = pool_tokens(given, 3, protected=4)
    assert kept.lengths.tolist() == [1, 2, 5, 36]
    assert np.array_equal(kept[3][:4], documents[3][:4])
    assert pool_tokens(given, 1) is given


def test_a_long_document_and_identical_tokens() -> None:
    row = matrix(np.random.default_rng(2), 1, 32)
    long = Tokens(np.repeat(row, TOGETHER + 10, axis=0), np.array([0, TOGETHER + 10]))
    pooled = pool_tokens(long, 4)
    assert len(pooled.values) == TOGETHER // 4 + 3
    assert np.allclose(pooled.values, row, atol=1e-5)


def test_wards_choice_loses_less_than_neighbours_in_order() -> None:
    rng = np.random.default_rng(3)
    kinds = matrix(rng, 12, 64)
    values = kinds[rng.integers(0, 12, 60)] + 0.05 * rng.standard_normal((60, 64))
    given = as_tokens([values / np.linalg.norm(values, axis=1, keepdims=True)], 64, "document")
    queries = given.values[rng.integers(0, 60, 40)]

    def loss(tokens: np.ndarray) -> float:
        return float(np.mean(1 - (queries @ tokens.T).max(axis=1)))

    pairs = given.values.reshape(-1, 3, 64).mean(axis=1)
    in_order = pairs / np.linalg.norm(pairs, axis=1, keepdims=True)
    assert loss(pool_tokens(given, 3).values) < 0.3 * loss(in_order)


@pytest.mark.parametrize(("factor", "protected"), [(0, 0), (2, -1)])
def test_impossible_wishes(factor: int, protected: int) -> None:
    with pytest.raises(ValueError, match="wanted at least"):
        pool_tokens(Tokens(np.zeros((0, 8), np.float32), np.zeros(1, np.int64)), factor, protected)


def test_an_index_keeps_pooled_tokens(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    documents = [matrix(rng, n, 32) for n in (10, 21)]
    with Index.create(tmp_path / "i", 32, pool_factor=2) as index:
        index.add(["a", "b"], documents)
        held = index.reconstruct(["a", "b"])
        assert held.lengths.tolist() == [5, 11]
        expected = pool_tokens(as_tokens(documents, 32, "document"), 2)
        assert np.allclose(held.values, expected.values, atol=1e-3)
        assert index.search([documents[1][:3]], k=1)[0][0].id == "b"


def squares(rows: np.ndarray, cluster: np.ndarray) -> float:
    """Sum of squared distances from the means of clusters."""
    means = {c: rows[cluster == c].mean(0) for c in set(cluster.tolist())}
    return float(
        sum(((row - means[int(c)]) ** 2).sum() for row, c in zip(rows, cluster, strict=True))
    )


@pytest.mark.parametrize("keep", [1, 5, 20, 39])
def test_clusters_are_ward_s(keep: int) -> None:
    """As merging the cheapest pair of all, one at a time; near copies go before what is different."""
    random = np.random.default_rng(keep)
    rows = random.standard_normal((40, 6))
    rows[10:25] = rows[10] + 1e-3 * random.standard_normal((15, 6))
    cluster = np.arange(40)
    while len(set(cluster.tolist())) > keep:
        names = sorted(set(cluster.tolist()))
        joined = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
        after = [squares(rows, np.where(cluster == b, a, cluster)) for a, b in joined]
        a, b = joined[int(np.argmin(after))]
        cluster = np.where(cluster == b, a, cluster)
    merged, first = merge(rows, keep)
    assert len(merged) == keep and first.tolist() == sorted(set(cluster.tolist()))
    for row, name in zip(merged, first, strict=True):
        members = rows[cluster == name]
        way = members.sum(0) / np.linalg.norm(members.sum(0))
        np.testing.assert_allclose(row, way * np.linalg.norm(members, axis=1).mean(), atol=1e-5)


def test_what_cannot_be_merged_is_said() -> None:
    with pytest.raises(ValueError, match="keep"):
        merge(np.eye(3), 0)
    with pytest.raises(ValueError, match="NaN"):
        merge(np.full((3, 2), np.nan), 2)
    one, first = merge(np.array([[1.0, 0.0], [-1.0, 0.0]]), 1)  # they cancel each other
    assert one.tolist() == [[1.0, 0.0]] and first.tolist() == [0]
