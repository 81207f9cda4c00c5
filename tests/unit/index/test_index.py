"""The public interface of `Index`: what goes in comes out, is found, and is refused clearly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from index_helpers import DIM, ROOT, contents, make, matrices, triple_loop

from lateint.index import (
    BadDocument,
    BadTokens,
    DuplicateId,
    Index,
    IndexClosed,
    IndexExists,
    IndexMismatch,
    IndexMissing,
    Tokens,
    UnknownId,
    building,
    compaction,
)


def test_no_torch_and_a_quick_import() -> None:
    code = """
import sys
import lateint.index
assert "numpy" not in sys.modules
lateint.index.Index
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    docs = make(tmp_path / "i")
    with Index.open(tmp_path / "i") as index:
        ids = [f"d{i}" for i in range(12)]
        assert index.ids() == ids and len(index) == 12 and "d3" in index and "x" not in index
        kept = index.reconstruct(["d7", "d2", "d7"])
        for got, wanted in zip(kept, (docs[7], docs[2], docs[7]), strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert index.metadata(["d4", "d1"]) == [
            {"n": 4, "parent": "p1", "even": True},
            {"n": 1, "parent": "p0", "even": False},
        ]
        assert index.texts(["d1", "d2"]) == ["text 1", None]
        info = index.info()
        assert (info.documents, info.tokens, info.deleted, info.segments) == (
            12,
            sum(map(len, docs)),
            0,
            2,
        )
        assert (
            info.to_json()["keys"] == ["even", "n", "parent"] and info.bytes > 2 * DIM * info.tokens
        )
        index.verify()


def test_search_is_maxsim(tmp_path: Path) -> None:
    docs = make(tmp_path / "i")
    queries = matrices(1, 4)
    wanted = np.array([[triple_loop(q, d) for d in docs] for q in queries])
    with Index.open(tmp_path / "i") as index:
        found = index.search(queries, k=5)
        for hits, row in zip(found, wanted, strict=True):
            assert [hit.id for hit in hits] == [f"d{i}" for i in np.argsort(-row)[:5]]
            np.testing.assert_allclose(
                [hit.score for hit in hits], np.sort(row)[::-1][:5], rtol=1e-5
            )
            assert all(hit.metadata["n"] == int(hit.id[1:]) for hit in hits)
        np.testing.assert_allclose(
            index.score(queries, ["d9", "d0", "d9"]), wanted[:, [9, 0, 9]], rtol=1e-5
        )
        table = index.token_scores(queries[0], "d9")
        assert table.shape == (len(queries[0]), len(docs[9]))
        assert table.max(axis=1).sum() == pytest.approx(wanted[0, 9], rel=1e-5)
        assert [len(hits) for hits in index.search(queries, k=100)] == [12] * 4
        assert index.search([], k=3) == []


def test_ids_and_groups(tmp_path: Path) -> None:
    docs = make(tmp_path / "i")
    queries = matrices(2, 3)
    with Index.open(tmp_path / "i", write=True) as index:
        only = index.search(queries, k=9, ids=["d8", "d2", "d5"])
        assert all({hit.id for hit in hits} == {"d8", "d2", "d5"} for hits in only)
        both = index.search(queries, k=9, ids=["d8", "d2", "d5"], where="n > ?", params=[2])
        assert all({hit.id for hit in hits} == {"d8", "d5"} for hits in both)
        index.add(["bare1", "bare2"], docs[:2])  # no parent: each stands alone
        every, grouped = index.search(queries, k=99), index.search(queries, k=99, group_by="parent")
        for hits, best in zip(every, grouped, strict=True):
            seen: set[str] = set()
            wanted = []
            for hit in hits:
                parent = hit.metadata.get("parent", hit.id)
                wanted += [] if parent in seen else [hit]
                seen.add(parent)
            assert best == wanted and len(best) == 6
        assert [len(hits) for hits in index.search(queries, k=2, group_by="parent")] == [2, 2, 2]
        with pytest.raises(UnknownId, match="'nobody'"):
            index.search(queries, ids=["d1", "nobody"])
        assert index.search(queries, ids=[]) == [[], [], []]


def test_ties_are_in_order_of_addition(tmp_path: Path) -> None:
    same = np.eye(DIM, dtype=np.float32)[:1]
    with Index.create(tmp_path / "i", DIM) as index:
        for name in ("c", "a", "b", "d"):
            index.add([name], [same])
        assert [hit.id for hit in index.search([same], k=2)[0]] == ["c", "a"]


def test_upsert_delete_and_compact(tmp_path: Path) -> None:
    docs = make(tmp_path / "i")
    new = matrices(7, 2)
    query = matrices(3, 1)
    with Index.open(tmp_path / "i", write=True) as index:
        index.upsert(["d3", "new"], new, metadata=[{"n": 33}, {"n": 99}])
        assert index.delete(["d0", "d11", "nobody"]) == 2 and index.delete(["d0"]) == 0
        assert len(index) == 11 and index.info().deleted == 3
        np.testing.assert_array_equal(index.reconstruct(["d3"])[0], new[0])
        assert index.metadata(["d3"]) == [{"n": 33}] and index.texts(["d3"]) == [None]
        before = index.search(query, k=20)
        scores = {hit.id: hit.score for hit in before[0]}
        assert scores["d5"] == pytest.approx(triple_loop(query[0], docs[5]), rel=1e-5)
        assert (
            scores["d3"] == pytest.approx(triple_loop(query[0], new[0]), rel=1e-5)
            and "d0" not in scores
        )
        index.verify()
        index.compact()
        assert (index.info().deleted, index.info().segments) == (0, 1)
        assert index.search(query, k=20) == before
        index.verify()
        assert index.delete(index.ids()) == 11 and len(index) == 0
        assert index.search(query) == [[]]
        index.compact()
        assert index.info().segments == 0 and list((tmp_path / "i" / "segments").iterdir()) == []
        index.add(["d0"], docs[:1])
    assert contents(tmp_path / "i")["ids"] == ["d0"]


def test_many_small_additions_merge_and_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "MANY", 5)
    monkeypatch.setattr(building, "SEGMENT_BYTES", 40 * 2 * DIM)  # 40 tokens a segment
    docs = matrices(4, 40)
    query = matrices(5, 2)
    with Index.create(tmp_path / "i", DIM) as index, Index.create(tmp_path / "j", DIM) as once:
        for i, doc in enumerate(docs):
            index.add([f"d{i}"], [doc])
        once.add([f"d{i}" for i in range(40)], docs)
        tokens = sum(map(len, docs))
        assert tokens // 40 <= once.info().segments < tokens // 20 and index.info().segments < 25
        for one, other in zip(index.search(query, k=40), once.search(query, k=40), strict=True):
            assert [hit.id for hit in one] == [hit.id for hit in other]
            np.testing.assert_allclose(
                [hit.score for hit in one], [hit.score for hit in other], rtol=1e-6
            )
        index.delete([f"d{i}" for i in range(0, 40, 7)])
        index.compact()
        index.verify()
        kept = [i for i in range(40) if i % 7]
        assert index.ids() == [f"d{i}" for i in kept]
        for got, i in zip(index.reconstruct(index.ids()), kept, strict=True):
            np.testing.assert_array_equal(got, docs[i])


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path / "a")
    make(tmp_path / "b")
    for name in ("1.safetensors", "2.safetensors"):
        assert (tmp_path / "a/segments" / name).read_bytes() == (
            tmp_path / "b/segments" / name
        ).read_bytes()


def test_all_forms_of_tokens(tmp_path: Path) -> None:
    class Ragged:
        values = np.ones((3, DIM), np.float64)
        offsets = np.array([0, 1, 3])

    class Tensor:  # what a torch tensor offers, without torch
        def __init__(self, array: np.ndarray) -> None:
            self.array, self.ndim, self.dtype = array, array.ndim, array.dtype

        def detach(self) -> Tensor:
            return self

        def cpu(self) -> Tensor:
            return self

        def numpy(self) -> np.ndarray:
            return self.array

    class OnTensors:
        values = Tensor(np.ones((3, DIM), np.float32))
        offsets = Tensor(np.array([0, 1, 3]))

    with Index.create(tmp_path / "i", DIM) as index:
        index.add(["a", "b"], Ragged())
        index.add(["c", "d"], np.ones((2, 3, DIM), np.float16))
        index.add(["e"], [[[1] * DIM]])
        index.add(["f", "g"], OnTensors())
        index.add(["h"], [Tensor(np.ones((2, DIM), np.float32))])
        index.add(["i"], index.reconstruct(["b"]))
        assert index.reconstruct(index.ids()).lengths.tolist() == [1, 2, 3, 3, 1, 1, 2, 2, 2]
        assert isinstance(index.reconstruct([]), Tokens) and len(index.reconstruct([])) == 0


def test_torch_tensors() -> None:
    torch = pytest.importorskip("torch")
    from lateint.index.tokens import as_tokens

    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        made = as_tokens([torch.ones(2, DIM, dtype=dtype, requires_grad=True)], DIM, "document")
        np.testing.assert_array_equal(made.values, np.ones((2, DIM)))


ONE = np.ones((1, DIM), np.float32)


@pytest.mark.parametrize(
    ("ids", "docs", "more", "error", "says"),
    [
        (["n", "m"], [ONE, ONE * np.nan], {}, BadTokens, "document 1 has NaN"),
        (["n", "m"], [ONE, ONE * np.inf], {}, BadTokens, "document 1 has NaN or infinite"),
        (["n", "m"], [ONE, ONE * 1e5], {}, BadTokens, "document 1 .*normalise"),
        (["n", "m"], [ONE, np.full((1, DIM), 1e300)], {}, BadTokens, "document 1"),
        (["n", "m"], [ONE, np.zeros((0, DIM))], {}, BadTokens, "document 1 has no tokens"),
        (
            ["n", "m"],
            [ONE, np.ones((1, DIM + 1))],
            {},
            IndexMismatch,
            "document 1 .*width 9.*width 8",
        ),
        (["n", "m"], np.ones((2, 3, 4)), {}, IndexMismatch, "width 4"),
        (["n"], ONE, {}, BadTokens, "goes in a list"),
        (["n"], [ONE[0]], {}, BadTokens, "wanted 2-D"),
        (["n"], [[["a"] * DIM]], {}, BadTokens, "floating-point"),
        (["n"], [[[1.0], [1.0, 2.0]]], {}, BadTokens, "rectangular"),
        (["n"], 5, {}, BadTokens, "wanted a Ragged"),
        (["n"], [ONE, ONE], {}, BadDocument, "1 ids and 2 documents"),
        (["n", "n"], [ONE, ONE], {}, DuplicateId, "given twice: 'n'"),
        (["n", "d1", "d1"], [ONE] * 3, {}, DuplicateId, "given twice: 'd1'"),
        ("n", [ONE], {}, BadDocument, "wanted a list"),
        ([""], [ONE], {}, BadDocument, "id 0"),
        ([7], [ONE], {}, BadDocument, "id 0 is 7"),
        (["\ud800"], [ONE], {}, BadDocument, "Unicode"),
        (["n"], [ONE], {"metadata": [{}, {}]}, BadDocument, "got 2 for 1 ids"),
        (["n"], [ONE], {"metadata": {"a": 1}}, BadDocument, "wanted a list"),
        (["n"], [ONE], {"metadata": [{"a": float("nan")}]}, BadDocument, "'n'.*JSON"),
        (["n"], [ONE], {"metadata": [{"a": {1, 2}}]}, BadDocument, "'n'.*JSON"),
        (["n"], [ONE], {"metadata": [{1: 2}]}, BadDocument, "string keys"),
        (["n"], [ONE], {"texts": [3]}, BadDocument, "text of 'n'"),
    ],
)
@pytest.mark.parametrize("verb", ["add", "upsert"])
def test_bad_documents_change_nothing(
    tmp_path: Path, verb: str, ids: list, docs: object, more: dict, error: type, says: str
) -> None:
    make(tmp_path / "i", 4)
    before = contents(tmp_path / "i")
    with Index.open(tmp_path / "i", write=True) as index:
        with pytest.raises(error, match=says):
            getattr(index, verb)(ids, docs, **more)
        assert index.info().commit == 3
    assert contents(tmp_path / "i") == before
    assert len(list((tmp_path / "i/segments").iterdir())) == 2


def test_an_id_that_exists(tmp_path: Path) -> None:
    make(tmp_path / "i", 4)
    before = contents(tmp_path / "i")
    with (
        Index.open(tmp_path / "i", write=True) as index,
        pytest.raises(DuplicateId, match=r"already holds 'd1'.*upsert"),
    ):
        index.add(["n", "d1"], [ONE, ONE])
    assert contents(tmp_path / "i") == before


def test_bad_offsets_and_queries(tmp_path: Path) -> None:
    make(tmp_path / "i", 4)
    with Index.open(tmp_path / "i") as index:
        for offsets in ([0, 2], [1, 3], [0, 4, 3], [0.0, 3.0], []):
            with pytest.raises(BadTokens):
                index.search(Tokens(np.ones((3, DIM), np.float32), np.array(offsets)))
        with pytest.raises(BadTokens, match="query 1 has no tokens"):
            index.search([ONE, ONE[:0]])
        with pytest.raises(IndexMismatch, match="query 0"):
            index.search([np.ones((1, 3))])
        for k in (0, -1, 2.5, True):
            with pytest.raises(ValueError, match="k: got"):
                index.search([ONE], k=k)  # type: ignore[arg-type]
        with pytest.raises(BadTokens, match="got 2 queries"):
            index.token_scores([ONE, ONE], "d0")
        for call in (
            index.reconstruct,
            index.metadata,
            index.texts,
            lambda ids: index.score([ONE], ids),
        ):
            with pytest.raises(UnknownId, match="'who'"):
                call(["d0", "who"])


def test_create_and_open_refuse(tmp_path: Path) -> None:
    path = tmp_path / "i"
    with pytest.raises(IndexMissing, match="create"):
        Index.open(path)
    for dim in (0, 5000, 2.0):
        with pytest.raises(IndexMismatch, match="dim"):
            Index.create(path, dim)  # type: ignore[arg-type]
    with Index.create(path, DIM, model="m1") as index:
        index.add(["a"], [ONE])
    with pytest.raises(IndexExists, match="overwrite"):
        Index.create(path, DIM)
    with pytest.raises(IndexMismatch, match=r"'m1'.*'m2'"):
        Index.open(path, model="m2")
    with pytest.raises(IndexMismatch, match="width 8"):
        Index.open(path, dim=9)
    with Index.open(path, dim=DIM, model="m1", write=True) as index:
        assert index.ids() == ["a"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(IndexExists, match=r"thesis\.txt"):
            Index.create(other, DIM, overwrite=overwrite)
    assert [p.name for p in other.iterdir()] == ["thesis.txt"]
    with pytest.raises(IndexExists, match="is a file"):
        Index.create(other / "thesis.txt", DIM)


def test_overwrite_keeps_the_readers(tmp_path: Path) -> None:
    make(tmp_path / "i", 4)
    reader = Index.open(tmp_path / "i")
    with Index.create(tmp_path / "i", 3, overwrite=True) as index:
        index.add(["x"], [np.ones((1, 3))])
        index.verify()
    assert reader.ids() == ["d0", "d1", "d2", "d3"] and len(reader.search([ONE])[0]) == 4
    reader.refresh()
    assert reader.ids() == ["x"] and reader.dim == 3 and reader.info().keys == ()
    reader.close()


def test_closed_and_read_only(tmp_path: Path) -> None:
    make(tmp_path / "i", 4)
    index = Index.open(tmp_path / "i")
    for write in (
        lambda: index.add(["n"], [ONE]),
        lambda: index.upsert(["n"], [ONE]),
        lambda: index.delete(["nobody"]),
        index.compact,
    ):
        with pytest.raises(IndexClosed, match="write=True"):
            write()
    index.close()
    index.close()
    for call in (
        index.ids,
        index.refresh,
        index.verify,
        lambda: index.search([ONE]),
        lambda: "d1" in index,
    ):
        with pytest.raises(IndexClosed, match="closed"):
            call()
    assert "closed" in repr(index)


@pytest.mark.parametrize("threads", [0, 1, 2, 3])
def test_a_batch_answers_what_its_queries_answer_alone(tmp_path: Path, threads: int) -> None:
    """Whichever way the work is shared: by documents for few queries, by queries for many."""
    docs, asked = matrices(5, 600, longest=12, dim=32), matrices(6, 50, longest=20, dim=32)
    with Index.create(tmp_path / "index", 32) as index:
        index.add([f"d{i}" for i in range(500)], docs[:500])
        index.train()
        index.add([f"d{i}" for i in range(500, 600)], docs[500:])
        alone = [index.search([query], 7, ncandidates=40, threads=1)[0] for query in asked]
        for count in (2, 50):
            found = index.search(asked[:count], 7, ncandidates=40, threads=threads)
            assert found == alone[:count]
