"""A repaired index verifies and answers with what is left; what is not has been put aside and listed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from index_helpers import matrices

from lateint.index import Index, IndexCorrupt, IndexLocked, IndexMissing

DIM = 32
DOCS = matrices(1, 40, dim=DIM)


def made(path: Path, coded: bool) -> None:
    """Documents d0 .. d39 in four segments, d5 and d25 deleted."""
    with Index.create(path, DIM, nbits=4 if coded else 16) as index:
        for low in range(0, 40, 10):
            index.add(
                [f"d{i}" for i in range(low, low + 10)],
                DOCS[low : low + 10],
                metadata=[{"n": i} for i in range(low, low + 10)],
                texts=[f"word{i}" for i in range(low, low + 10)],
            )
            if coded and low == 0:
                index.train()
        index.delete(["d5", "d25"])


def numbers(first: int, last: int) -> set[str]:
    return {f"d{i}" for i in range(first, last)} - {"d5", "d25"}


def sql(line: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        db = sqlite3.connect(path / "index.sqlite")
        db.execute(line)
        db.commit()
        db.close()

    return spoil


def flip(path: Path, name: str) -> None:
    file = path / "segments" / name
    data = bytearray(file.read_bytes())
    data[-5] ^= 8
    file.write_bytes(data)


# What is spoilt, whether in a compressed index, and which documents that costs.
DAMAGE: dict[str, tuple[Callable[[Path], object], bool, set[str]]] = {
    "flipped": (lambda path: flip(path, "2.safetensors"), False, numbers(10, 20)),
    "missing": (lambda path: (path / "segments/3.safetensors").unlink(), False, numbers(20, 30)),
    "short": (lambda path: os.truncate(path / "segments/1.safetensors", 90), False, numbers(0, 10)),
    "coded": (lambda path: flip(path, "4.safetensors"), True, numbers(20, 30)),
    "codec": (lambda path: flip(path, "codec-1.safetensors"), True, numbers(0, 40)),
    "segment row": (sql("UPDATE segments SET tokens = 1 WHERE number = 2"), False, numbers(10, 20)),
    "segment row gone": (sql("DELETE FROM segments WHERE number = 2"), False, numbers(10, 20)),
    "codec row": (sql("UPDATE codecs SET nbits = 2"), True, numbers(0, 40)),
    "document row": (sql("UPDATE documents SET metadata = '{' WHERE id = 'd7'"), False, {"d7"}),
    "document row gone": (sql("DELETE FROM documents WHERE id = 'd7'"), False, set()),
    "text row": (sql("UPDATE texts SET text = 'other' WHERE doc = 8"), False, set()),
    "text of nobody": (sql("DELETE FROM tombstones WHERE doc = 6"), False, set()),
    "key": (sql("DELETE FROM keys"), False, set()),
    "words": (sql("DELETE FROM lexical_docsize WHERE id = 3"), False, set()),
    "words gone": (sql("DELETE FROM lexical_data WHERE id > 10"), False, set()),
    "witness": (lambda path: (path / "commit").unlink(), False, set()),
    "witness spoilt": (lambda path: (path / "commit").write_bytes(b"x"), False, set()),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_left_is_sound(tmp_path: Path, name: str) -> None:
    spoil, coded, lost = DAMAGE[name]
    made(tmp_path / "i", coded)
    spoil(tmp_path / "i")
    before = {file.name: file.read_bytes() for file in (tmp_path / "i/segments").iterdir()}
    with pytest.raises(IndexCorrupt):
        Index.open(tmp_path / "i").verify()
    done = Index.repair(tmp_path / "i")
    assert set(done.lost) == lost and done.problems and done.quarantine
    gone = numbers(0, 40) - lost - ({"d7"} if name == "document row gone" else set())
    with Index.open(tmp_path / "i", write=True) as index:
        index.verify()
        assert set(index.ids()) == gone
        if gone:
            hits = index.search([DOCS[31]], 3)[0]
            assert hits[0].id == "d31" and hits[0].metadata == {"n": 31}
            said = index.search_hybrid(None, ["word33"], fusion="bm25")[0]
            assert [hit.id for hit in said] == ["d33"]
        if again := sorted(lost):  # they can come back
            index.add(again, [DOCS[int(name[1:])] for name in again])
        index.add(["new"], matrices(3, 1, dim=DIM))
        index.compact()
        index.verify()
        assert set(index.ids()) == gone | lost | {"new"}
    # Nothing was deleted: files lie in quarantine as they were, documents are listed.
    for file in done.files:
        assert (done.quarantine / file).read_bytes() == before[file]
    lines = (done.quarantine / "lost.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == lost
    for line in lines:
        entry = json.loads(line)
        assert entry["text"] == f"word{entry['id'][1:]}" and entry["reason"]
    assert Index.repair(tmp_path / "i").quarantine is None  # and now there is nothing to do


def test_nothing_to_do(tmp_path: Path) -> None:
    made(tmp_path / "i", True)
    files = {file: file.read_bytes() for file in (tmp_path / "i/segments").iterdir()}
    done = Index.repair(tmp_path / "i")
    assert not done.problems and not done.lost and done.quarantine is None
    assert {file: file.read_bytes() for file in (tmp_path / "i/segments").iterdir()} == files
    with pytest.raises(IndexMissing):
        Index.repair(tmp_path / "none")
    with Index.open(tmp_path / "i", write=True), pytest.raises(IndexLocked):
        Index.repair(tmp_path / "i")


def test_a_database_that_is_beyond_it(tmp_path: Path) -> None:
    for at, body in ((0, b"no database at all" * 50), (4096, os.urandom(4096))):
        shutil.rmtree(tmp_path / "i", ignore_errors=True)
        made(tmp_path / "i", False)
        with (tmp_path / "i/index.sqlite").open("r+b") as file:
            file.seek(at)
            file.write(body)
        spoilt = (tmp_path / "i/index.sqlite").read_bytes()
        with pytest.raises(IndexCorrupt, match=r"index\.sqlite"):
            Index.repair(tmp_path / "i")
        assert (tmp_path / "i/index.sqlite").read_bytes() == spoilt
        assert len(list((tmp_path / "i/segments").iterdir())) == 4


def test_lost_commits(tmp_path: Path) -> None:
    """The log was lost with the last commits: repair goes on from what is there, and says so."""
    with Index.create(tmp_path / "i", DIM) as index:
        index.add(["a"], DOCS[:1])
        shutil.copytree(tmp_path / "i", tmp_path / "old", ignore=shutil.ignore_patterns("*-shm"))
        index.add(["b"], DOCS[1:2])
    shutil.copy(tmp_path / "i/commit", tmp_path / "old/commit")
    with pytest.raises(IndexCorrupt, match="damaged or missing"):
        Index.open(tmp_path / "old")
    done = Index.repair(tmp_path / "old")
    assert "commits 3 to 3 are lost" in done.problems[0] and not done.lost
    with Index.open(tmp_path / "old", write=True) as index:
        assert index.ids() == ["a"]
        index.upsert(["a"], DOCS[2:3])
        np.testing.assert_array_equal(index.reconstruct(["a"])[0], DOCS[2])
        index.verify()


def test_overwriting_leaves_quarantine(tmp_path: Path) -> None:
    made(tmp_path / "i", False)
    flip(tmp_path / "i", "2.safetensors")
    place = Index.repair(tmp_path / "i").quarantine
    assert place
    (tmp_path / "i/index.sqlite").write_bytes(b"broken")
    with Index.create(tmp_path / "i", DIM, overwrite=True) as index:
        index.verify()
    assert (place / "2.safetensors").exists()
