"""What an index promises about its files, for compressed tokens, vectors and words: damage is found,
a full disk loses nothing, readers keep their snapshot while centroids change."""

from __future__ import annotations

import os
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_helpers import contents, matrices, python

from lateint.index import (
    BadFilter,
    BadTokens,
    DuplicateId,
    Index,
    IndexCorrupt,
    IndexMismatch,
    IndexWriteFailed,
    LateintIndexError,
    UnknownId,
)

DIM = 32
DOCS = matrices(1, 30, dim=DIM)
WORDS = [f"page {i} of the {'red' if i % 3 else 'blue'} book" for i in range(30)]
OPTIONS: dict[str, Any] = {
    "nbits": 2,
    "keep_originals": True,
    "fde": {"repetitions": 2, "bits": 2, "projection": 4},
}


def made(path: Path, docs: int = 30) -> None:
    """Compressed, with originals, vectors and words; two segments, a codec, a deleted document."""
    with Index.create(path, DIM, **OPTIONS) as index:
        for low, high in ((0, docs // 2), (docs // 2, docs)):
            index.add(
                [f"d{i}" for i in range(low, high)],
                DOCS[low:high],
                metadata=[{"n": i} for i in range(low, high)],
                texts=WORDS[low:high],
            )
            if not low:
                index.train()
        index.delete(["d1"])


def answers(path: Path) -> list[Any]:
    """All ways to ask, and what is said."""
    queries = matrices(5, 2, dim=DIM)
    with Index.open(path) as index:
        few = {"ncandidates": 5}
        return [
            index.search(queries, 40, mode="exact"),
            index.search(queries, 3, mode="scan", **few),  # type: ignore[arg-type]
            index.search(queries, 3, mode="lists", **few),  # type: ignore[arg-type]
            index.search(queries, 3, mode="fde", **few),  # type: ignore[arg-type]
            index.search(queries, 3, where="n > 7", rescore=0),
            index.search_hybrid(queries, ["blue", "red page 7"], 5),
            index.texts(index.ids()),
            [tokens.tobytes() for tokens in index.reconstruct(index.ids())],
        ]


def check_flips(tmp_path: Path, every: int, files: list[str]) -> int:
    """Flips one bit in every so many bytes of each file; returns how many were found. Either the
    index, or verify(), says so with the file's name; or the byte means nothing, and all answers are
    as they were."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    made(good, 12)
    wanted, caught = answers(good), 0
    for name in files:
        data = (good / name).read_bytes()
        for at in range(zlib.crc32(name.encode()) % every, len(data), every):
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(good, bad)
            spoilt = bytearray(data)
            spoilt[at] ^= 1 << (at * 7 % 8)
            (bad / name).write_bytes(spoilt)
            said: LateintIndexError | None = None
            try:
                found = answers(bad)
            except (BadFilter, UnknownId):  # a name or an id is spoilt: they cannot know why
                with pytest.raises(IndexCorrupt) as caught, Index.open(bad) as index:
                    index.verify()
                said = caught.value
            except LateintIndexError as error:
                said = error
            else:
                try:
                    with Index.open(bad) as index:
                        index.verify()
                except LateintIndexError as error:
                    said = error
                else:
                    assert found == wanted, (name, at)
                if name.startswith("segments"):
                    assert found == wanted, (name, at)  # verified or not: no wrong answer
            if said is not None:
                caught += 1
                assert Path(name).name in str(said), (name, at, said)
    return caught


SEGMENTS = [f"segments/{name}.safetensors" for name in ("2", "3", "codec-1")]


def test_a_flipped_bit_in_segments_and_codecs(tmp_path: Path) -> None:
    assert check_flips(tmp_path, 199, SEGMENTS) > 50


def test_a_flipped_bit_in_the_database(tmp_path: Path) -> None:
    assert check_flips(tmp_path, 997, ["index.sqlite", "commit"]) > 2


@pytest.mark.slow
def test_a_flipped_bit_everywhere(tmp_path: Path) -> None:
    assert check_flips(tmp_path, 37, [*SEGMENTS, "index.sqlite", "commit"]) > 250


@pytest.mark.parametrize("name", SEGMENTS)
def test_missing_truncated_and_foreign_files(tmp_path: Path, name: str) -> None:
    made(tmp_path / "good", 12)
    size = (tmp_path / "good" / name).stat().st_size
    other = (tmp_path / "good/segments/2.safetensors").read_bytes()
    for body in (None, b"", b"PK\3\4" * 500, other[: size // 2], other + b"\0" * 64):
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        (tmp_path / "bad" / name).unlink()
        if body is not None:
            (tmp_path / "bad" / name).write_bytes(body)
        for write in (False, True):
            with pytest.raises(IndexCorrupt, match=Path(name).name):
                Index.open(tmp_path / "bad", write=write).verify()


READ = """
import sys
from lateint.index import Index
from index_helpers import matrices
index = Index.open(sys.argv[1])
for line in sys.stdin:
    if line.strip() == "refresh":
        index.refresh()
    queries = matrices(5, 1, dim=32)
    hits = index.search(queries, 99, mode="scan", ncandidates=99)[0]
    words = index.search_hybrid(None, ["blue"], 99, fusion="bm25")[0]
    index.verify()
    total = round(sum(hit.score for hit in hits + words), 3)
    print(sorted(hit.id for hit in hits), len(words), total, flush=True)
"""


def test_readers_keep_their_snapshot_while_centroids_change(tmp_path: Path) -> None:
    made(tmp_path / "i")

    def ask(reader: Any, line: str) -> str:
        reader.stdin.write(line + "\n")
        reader.stdin.flush()
        return str(reader.stdout.readline())

    with python(READ, tmp_path / "i") as reader:
        before = ask(reader, "search")
        assert "'d29'" in before
        with Index.open(tmp_path / "i", write=True) as index:
            index.train()
            assert ask(reader, "search") == before
            index.delete(["d0", "d29"])
            index.add(["e"], matrices(8, 1, dim=DIM), texts=["a blue book"])
            index.compact()
            assert ask(reader, "search") == before
            after = ask(reader, "refresh")
            assert "'e'" in after and "'d29'" not in after
            index.verify()
        assert reader.stdin
        reader.stdin.close()


def test_bad_input_changes_nothing(tmp_path: Path) -> None:
    made(tmp_path / "i")
    before = contents(tmp_path / "i")
    files = {path: path.read_bytes() for path in (tmp_path / "i/segments").iterdir()}
    wrong = [doc.copy() for doc in DOCS[:3]]
    wrong[2][0, 5] = np.inf
    nothing = [*DOCS[:2], np.zeros((0, DIM), np.float32)]
    with Index.open(tmp_path / "i", write=True) as index:
        for call in (index.add, index.upsert):
            for docs, ids, error in (
                (wrong, ["x", "y", "z"], BadTokens),
                (nothing, ["x", "y", "z"], BadTokens),
                (matrices(1, 3, dim=DIM + 1), ["x", "y", "z"], IndexMismatch),
                (DOCS[:3], ["x", "y", "x"], DuplicateId),
            ):
                with pytest.raises(error):
                    call(ids, docs, texts=["some", "new", "words"])
        with pytest.raises(BadTokens):
            index.extend([(["x"], DOCS[:1]), (["y"], [wrong[2]])])
        index.verify()
    assert contents(tmp_path / "i") == before
    assert {path: path.read_bytes() for path in (tmp_path / "i/segments").iterdir()} == files


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)]
    try:
        tried = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount here")
    if tried.returncode:
        pytest.skip(f"no file system may be mounted here ({tried.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def free(place: Path) -> int:
    state = os.statvfs(place)
    return state.f_bavail * state.f_frsize


def test_a_full_disk(small_disk: Path) -> None:
    """Whatever is being done when the disk is full: a clear error, and all is as it was before."""
    path = small_disk / "i"
    made(path)
    filler = small_disk / "filler"
    refused = dict.fromkeys(("add", "upsert", "extend", "train", "compact", "build"), 0)
    more = matrices(3, 60, dim=DIM)
    names = [f"n{i}" for i in range(60)]
    for left in (0, 4, 12, 28, 60, 100, 140):  # kilobytes
        for work in refused:
            with Index.open(path, write=True) as index:
                index.verify()
                for name in ("p", "q"):  # so that there is something to compact
                    index.add([name], more[:1], texts=[name])
            before = contents(path)
            with filler.open("wb") as file:
                file.write(b"x" * max(0, free(small_disk) - left * 1024))
            try:
                if work == "build":
                    Index.build(small_disk / "new", [(names, more)], DIM, nbits=16).close()
                else:
                    with Index.open(path, write=True) as index:
                        if work in ("add", "upsert"):
                            texts = ["many words " * 50] * 60
                            getattr(index, work)(names, more, texts=texts)
                        elif work == "extend":
                            index.extend([(names, more)])
                        else:
                            getattr(index, work)()
            except IndexWriteFailed as error:
                refused[work] += 1
                failed = str(error)
            else:
                failed = ""
            # SQLite needs 32 kB to open a database, if only to read: make room, then look.
            filler.unlink()
            shutil.rmtree(small_disk / "new", ignore_errors=True)
            if failed:
                assert small_disk.name in failed and contents(path) == before
            with Index.open(path, write=True) as index:
                index.verify()
                index.delete([*names, "p", "q"])
                index.compact()
                index.verify()
                assert len(index) == 29
    assert all(refused.values()), refused
