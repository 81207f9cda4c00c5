"""FDE vectors against the paper's definition in loops, and that they rank as MaxSim does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_helpers import matrices, matrix

from lateint.index import Index
from lateint.index.fde import Fde, scan, to_bytes
from lateint.index.search.exact import maxsim
from lateint.index.tokens import Tokens, as_tokens

DIM = 16


def tokens(seed: int, count: int, longest: int = 12) -> Tokens:
    return as_tokens(matrices(seed, count, longest, DIM), DIM, "document")


def by_definition(fde: Fde, item: np.ndarray, query: bool) -> np.ndarray:
    """One item's vector, token by token and cell by cell."""
    cells, width = 1 << fde.bits, fde.projection or fde.dim
    out = np.zeros((fde.repetitions, cells, width))
    for r in range(fde.repetitions):
        planes = fde._planes[:, r * fde.bits : (r + 1) * fde.bits]
        inside = [
            sum(1 << b for b in range(fde.bits) if token @ planes[:, b] > 0) for token in item
        ]
        project = np.eye(fde.dim)
        if fde._projections is not None:
            project = fde._projections[:, r * width : (r + 1) * width]
        for cell in range(cells):
            here = [
                token @ project for token, where in zip(item, inside, strict=True) if where == cell
            ]
            if query:
                out[r, cell] = np.sum(here, axis=0) / fde.repetitions if here else 0
            elif here:
                out[r, cell] = np.mean(here, axis=0)
            else:
                far = [bin(cell ^ where).count("1") for where in inside]
                out[r, cell] = item[int(np.argmin(far))] @ project
    return out.ravel()


@pytest.mark.parametrize("bits", [0, 1, 3, 5])
@pytest.mark.parametrize("projection", [None, 1, 6])
def test_against_the_definition(bits: int, projection: int | None) -> None:
    fde = Fde(DIM, repetitions=3, bits=bits, projection=projection, seed=5)
    items = tokens(1, 7)
    for query, vectors in ((True, fde.encode_queries(items)), (False, fde.encode_documents(items))):
        assert vectors.shape == (7, fde.size) and vectors.dtype == np.float32
        for item, vector in zip(items, vectors, strict=True):
            np.testing.assert_allclose(
                vector, by_definition(fde, item, query), rtol=1e-4, atol=1e-5
            )


def test_one_cell_and_one_token_is_the_dot_product() -> None:
    """Without cuts the vector is the token; the dot product is MaxSim of single vectors."""
    fde = Fde(DIM, repetitions=2, bits=0, projection=None)
    items = tokens(2, 5, longest=1)
    vectors = fde.encode_queries(items) @ fde.encode_documents(items).T
    np.testing.assert_allclose(vectors, maxsim(items, items), rtol=1e-5, atol=1e-6)


def clustered(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    """Documents of tokens that come in kinds, as words do."""
    kinds = matrix(rng, 200, DIM)
    return [
        kinds[rng.integers(0, 200, 12)] + 0.2 * rng.standard_normal((12, DIM)).astype(np.float32)
        for _ in range(count)
    ]


def test_recall_of_candidates() -> None:
    rng = np.random.default_rng(3)
    docs = clustered(rng, 600)
    asked = [
        docs[i][:6] + 0.2 * rng.standard_normal((6, DIM)).astype(np.float32) for i in range(40)
    ]
    documents, queries = as_tokens(docs, DIM, "document"), as_tokens(asked, DIM, "query")
    wanted = np.argsort(-maxsim(queries, documents), axis=1)[:, :5]  # one alike, four at random
    found = {}
    for name, fde in (
        ("small", Fde(DIM, repetitions=2, bits=2, projection=4)),
        ("default", Fde(DIM)),
        ("folded", Fde(DIM, final=1024)),
    ):
        vectors = fde.encode_documents(documents)
        scores = scan(fde.encode_queries(queries), *to_bytes(vectors))
        np.testing.assert_allclose(
            scores, fde.encode_queries(queries) @ vectors.T, atol=0.02 * np.abs(scores).max()
        )
        best = np.argsort(-scores, axis=1)[:, :60]
        found[name] = np.mean([np.isin(a, b).mean() for a, b in zip(wanted, best, strict=True)])
        assert name == "small" or np.isin(wanted[:, 0], best[:, :5]).mean() > 0.95
    # A tenth of the documents looked at: that much by chance.
    assert found["default"] > 0.6 > found["small"] > 0.2 and found["folded"] > 0.5


def test_same_settings_same_vectors() -> None:
    items = tokens(4, 50)
    fde = Fde(DIM, final=100)
    first = fde.encode_documents(items)
    again = Fde(**fde.to_json()).encode_documents(items)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, Fde(DIM, final=100, seed=1).encode_documents(items))
    for i in (0, 49):  # a document's vector does not depend on its neighbours
        np.testing.assert_allclose(
            fde.encode_documents(items.slice(i, i + 1))[0], first[i], rtol=1e-4, atol=1e-5
        )


def test_blocks_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    items, fde = tokens(5, 30), Fde(DIM)
    whole = fde.encode_documents(items)
    monkeypatch.setattr("lateint.index.fde.ROWS", 20)
    np.testing.assert_allclose(fde.encode_documents(items), whole, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("lateint.index.fde.SCAN_BYTES", 4)
    queries = fde.encode_queries(tokens(6, 2))
    np.testing.assert_allclose(scan(queries, *to_bytes(whole)), queries @ whole.T, atol=0.1)


def test_nothing_to_encode() -> None:
    fde = Fde(DIM)
    assert fde.encode_documents(as_tokens([], DIM, "document")).shape == (0, fde.size)
    vectors, steps = to_bytes(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(scan(np.ones((1, 3), np.float32), vectors, steps), [[0, 0]])


@pytest.mark.parametrize(
    "settings",
    [
        {"bits": 11},
        {"bits": True},
        {"repetitions": 0},
        {"projection": DIM + 1},
        {"final": 0},
        {"seed": -1},
        {"bits": 10, "repetitions": 1000},
        {"bits": 1.5},
    ],
)
def test_impossible_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"fde: .*wanted"):
        Fde(DIM, **settings)


def test_another_width() -> None:
    with pytest.raises(ValueError, match="16 wide, wanted 8"):
        Fde(8).encode_documents(tokens(1, 2))


def test_as_candidates_of_a_search(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    docs = [np.concatenate([doc, doc], axis=1) for doc in clustered(rng, 400)]
    asked = [docs[i][:6] for i in range(20)]
    ids = [f"d{i}" for i in range(400)]
    with Index.create(tmp_path / "i", 2 * DIM, fde={"repetitions": 10, "seed": 3}) as index:
        index.add(ids[:250], docs[:250])
        assert index.search(asked, mode="fde") == index.search(asked)  # float16: scored whole
        index.train()
        index.add(ids[250:], docs[250:])
        for _ in range(2):
            few = index.search(asked, 3, mode="fde", ncandidates=40)
            assert [row[0].id for row in few] == ids[:20]
            best = index.search(asked[:1], 400, mode="exact")[0]
            whole = {hit.id: hit.score for hit in best}
            assert all(hit.score == pytest.approx(whole[hit.id], rel=1e-4) for hit in few[0])
            allowed = index.search(asked[:1], 3, mode="fde", ncandidates=40, ids=ids[105:300])[0]
            assert {hit.id for hit in allowed} <= set(ids[105:300])
            assert index.recall(asked, 5, mode="fde", ncandidates=200).value > 0.7
            assert index.recall(asked, 5, mode="fde", ncandidates=400).value > 0.95
            index.delete(["d399", "d100"])
            index.compact()  # the vectors move along
            index.verify()
    with Index.open(tmp_path / "i") as index:
        assert index.search(asked, 3, mode="fde", ncandidates=40)[0][0].id == "d0"
        assert index.info().parts["fde"] == 398 * Fde(2 * DIM, repetitions=10).size


def test_an_index_without_vectors(tmp_path: Path) -> None:
    for wrong in ({"bit": 4}, {"bits": 99}, 3, {1: 2}):
        with pytest.raises(ValueError, match="fde"):
            Index.create(tmp_path / "w", 32, fde=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only for compressed"):
        Index.create(tmp_path / "w", 32, nbits=16, fde=True)
    with Index.create(tmp_path / "i", 32) as index, pytest.raises(ValueError, match="fde=True"):
        index.search(matrices(0, 1, dim=32), mode="fde")
