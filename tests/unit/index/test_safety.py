"""What an index promises about its files: locks, snapshots, damage, full disks, versions."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_helpers import DIM, contents, make, matrices, python

from lateint.index import (
    Index,
    IndexClosed,
    IndexCorrupt,
    IndexLocked,
    IndexMissing,
    IndexTooNew,
    IndexTooOld,
    IndexWriteFailed,
    LateintIndexError,
    manifest,
    segments,
    storage,
)

HOLD = """
import sys
from lateint.index import Index
index = Index.open(sys.argv[1], write=True)
print("held", flush=True)
sys.stdin.readline()
"""

READ = """
import sys
from lateint.index import Index
from index_helpers import matrices
index = Index.open(sys.argv[1])
for line in sys.stdin:
    if line.strip() == "refresh":
        index.refresh()
    hits = index.search(matrices(5, 1), k=99)[0]
    total = round(sum(hit.score for hit in hits), 3)
    print(sorted(hit.id for hit in hits), index.metadata(["d1"]), total, flush=True)
"""


def test_second_writer_is_refused_at_once(tmp_path: Path) -> None:
    make(tmp_path / "i")
    with python(HOLD, tmp_path / "i") as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        for attempt in (
            lambda: Index.open(tmp_path / "i", write=True),
            lambda: Index.create(tmp_path / "i", DIM, overwrite=True),
        ):
            with pytest.raises(IndexLocked, match=f"process {holder.pid} ") as caught:
                attempt()
            assert caught.value.pid == holder.pid
        with Index.open(tmp_path / "i") as reader:  # readers are welcome
            assert len(reader) == 12
        holder.send_signal(signal.SIGKILL)
    with Index.open(tmp_path / "i", write=True) as index:  # a dead holder holds nothing
        with pytest.raises(IndexLocked, match=f"process {os.getpid()} "):
            Index.open(tmp_path / "i", write=True)
        assert len(index) == 12


def test_a_forked_child_can_neither_write_nor_unlock(tmp_path: Path) -> None:
    make(tmp_path / "i")
    index = Index.open(tmp_path / "i", write=True)
    child = os.fork()
    if child == 0:
        try:
            index.delete(["d0"])
        except IndexClosed as error:
            if "after a fork" in str(error):
                index.close()
                assert index._storage._lock
                index._storage._lock.release()
                os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    with pytest.raises(IndexLocked):
        Index.open(tmp_path / "i", write=True)
    assert index.delete(["d0"]) == 1
    index.verify()
    index.close()


def test_readers_in_other_processes_keep_their_snapshot(tmp_path: Path) -> None:
    make(tmp_path / "i")

    def ask(reader: Any, line: str) -> str:
        reader.stdin.write(line + "\n")
        reader.stdin.flush()
        return str(reader.stdout.readline())

    with python(READ, tmp_path / "i") as reader:
        before = ask(reader, "search")
        assert "'d11'" in before
        with Index.open(tmp_path / "i", write=True) as index:
            index.delete(["d0", "d7"])
            index.upsert(["d1"], matrices(9, 1), metadata=[{"n": "new"}])
            index.add(["e"], matrices(8, 1))
            index.compact()
            assert ask(reader, "search") == before
            after = ask(reader, "refresh")
            assert after != before and "'e'" in after and "'new'" in after and "'d7'" not in after
            index.verify()
        assert reader.stdin
        reader.stdin.close()


def test_open_while_a_writer_compacts(tmp_path: Path) -> None:
    """A reader that finds a segment gone between manifest and file looks again."""
    code = """
import sys
from lateint.index import Index
from index_helpers import matrices
index = Index.open(sys.argv[1], write=True)
print("ready", flush=True)
for i in range(40):
    index.add([f"x{i}"], matrices(i, 1))
    index.compact()
"""
    make(tmp_path / "i")
    opened = 0
    with python(code, tmp_path / "i") as writer:
        assert writer.stdout and writer.stdout.readline() == "ready\n"
        while writer.poll() is None:
            with Index.open(tmp_path / "i") as reader:
                assert (
                    len(reader.search(matrices(5, 1), k=99)[0]) == len(reader) == len(reader.ids())
                )
            opened += 1
    assert writer.returncode == 0 and opened > 3


def test_a_segment_gone_between_manifest_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "i")
    with Index.open(tmp_path / "i", write=True) as writer:
        real = segments.SegmentFile

        def late(path: Path, checksums: Any) -> Any:
            monkeypatch.setattr(storage, "SegmentFile", real)
            writer.compact()
            return real(path, checksums)

        monkeypatch.setattr(storage, "SegmentFile", late)
        with Index.open(tmp_path / "i") as reader:
            assert reader.info().segments == 1 and len(reader.search(matrices(5, 1), k=99)[0]) == 12
    (tmp_path / "i/segments/3.safetensors").unlink()  # not a race: looking again does not help
    with pytest.raises(IndexCorrupt, match=r"3\.safetensors: is missing"):
        Index.open(tmp_path / "i")


def test_newer_and_older_formats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "i")
    before = contents(tmp_path / "i")
    with monkeypatch.context() as patch:
        patch.setattr(manifest, "FORMAT", 0)
        with pytest.raises(IndexTooNew, match=r"index\.sqlite.*upgrade"):
            Index.open(tmp_path / "i")
    with monkeypatch.context() as patch:
        newer = manifest.FORMAT + 1
        patch.setattr(manifest, "OLDEST", newer)
        patch.setattr(manifest, "FORMAT", newer)
        with pytest.raises(IndexTooOld, match=r"index\.sqlite.*build it again"):
            Index.open(tmp_path / "i", write=True)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "KINDS", {"codes": None})
        with pytest.raises(IndexTooNew, match=r"segments/1\.safetensors.*'fp16'.*upgrade"):
            Index.open(tmp_path / "i")
    assert contents(tmp_path / "i") == before


def damage(tmp_path: Path, name: str, spoil: Any) -> Path:
    """A copy of a good index with one file spoilt."""
    if not (tmp_path / "good").exists():
        make(tmp_path / "good", 6)
    shutil.rmtree(tmp_path / "bad", ignore_errors=True)
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    spoil(tmp_path / "bad" / name)
    return tmp_path / "bad"


FILES = ["index.sqlite", "commit", "segments/1.safetensors", "segments/2.safetensors"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("write", [False, True])
def test_missing_truncated_and_foreign_files(tmp_path: Path, name: str, write: bool) -> None:
    for spoil in (
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: os.truncate(file, file.stat().st_size // 2),
        lambda file: os.truncate(file, file.stat().st_size - 1),
        lambda file: file.write_bytes(file.read_bytes() + b"\0"),
        lambda file: file.write_bytes(b"PK\3\4" * 500),
    ):
        path = damage(tmp_path, name, spoil)
        spoilt = (path / name).read_bytes() if (path / name).exists() else None
        if (
            name == "index.sqlite"
            and spoilt
            and spoilt[:-1] == (tmp_path / "good" / name).read_bytes()
        ):
            continue  # SQLite does not read beyond its pages: nothing is lost
        with pytest.raises(IndexCorrupt, match=name.split("/")[-1]):
            Index.open(path, write=write).verify()
        assert (spoilt is None) or (
            path / name
        ).read_bytes() == spoilt  # nothing is deleted or mended


def flip(file: Path, at: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)


def check_flips(tmp_path: Path, times: int) -> None:
    make(tmp_path / "good", 6)
    wanted = contents(tmp_path / "good")
    sizes = {name: (tmp_path / "good" / name).stat().st_size for name in FILES}
    chance, caught = random.Random(0), 0
    for _ in range(times):
        name = chance.choice(FILES)
        at, bit = chance.randrange(sizes[name]), chance.randrange(8)
        path = damage(tmp_path, name, lambda file, at=at, bit=bit: flip(file, at, bit))
        try:
            with Index.open(path) as index:
                index.verify()
            assert contents(path) == wanted, (name, at, bit)  # a byte that means nothing
        except LateintIndexError as error:
            caught += 1
            assert name.split("/")[-1] in str(error)
        if name.startswith("segments"):
            with pytest.raises(IndexCorrupt, match=name):  # never a wrong answer, verified or not
                Index.open(path).search(matrices(5, 1))
    assert caught > times // 3


def test_flipped_bits(tmp_path: Path) -> None:
    check_flips(tmp_path, 150)


@pytest.mark.slow
def test_many_flipped_bits(tmp_path: Path) -> None:
    check_flips(tmp_path, 4000)


def test_damage_is_found_at_first_touch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "BLOCK", 64)
    make(tmp_path / "i", 12)
    file = tmp_path / "i/segments/2.safetensors"
    flip(file, file.stat().st_size - 1, 3)  # the last token of the last document
    with Index.open(tmp_path / "i") as index:
        index.search(matrices(5, 1), ids=["d0", "d6"])  # elsewhere in the same file
        with pytest.raises(IndexCorrupt, match=r"2\.safetensors: damaged at bytes"):
            index.search(matrices(5, 1), ids=["d11"])
        with pytest.raises(IndexCorrupt, match=r"2\.safetensors"):
            index.verify()


def test_rows_that_contradict_each_other(tmp_path: Path) -> None:
    for change, says in (
        ("DELETE FROM documents WHERE id = 'd3'", "not those that the segments hold"),
        ("UPDATE documents SET id = 'zz' WHERE id = 'd3'", "row 4 of table documents"),
        ("UPDATE documents SET metadata = '{}' WHERE id = 'd3'", "row 4 of table documents"),
        ("UPDATE texts SET text = 'other'", "row 2 of table texts"),
        ("DELETE FROM segments WHERE number = 2", "do not add up"),
        ("UPDATE segments SET bytes = bytes + 1", "row 1 of table segments"),
        ("INSERT INTO tombstones VALUES (2)", "do not add up"),
        ("INSERT INTO tombstones VALUES (200)", "no segment holds"),
        ("DELETE FROM keys WHERE key = 'n'", "table keys lacks"),
        ("UPDATE manifest SET body = replace(body, '8', '9')", "manifest is damaged"),
        ("DELETE FROM manifest", "manifest is damaged"),
        ("DROP TABLE texts", "no such table"),
    ):

        def spoil(file: Path, change: str = change) -> None:
            db = sqlite3.connect(file)
            db.execute(change)
            db.commit()
            db.close()

        path = damage(tmp_path, "index.sqlite", spoil)
        with pytest.raises(IndexCorrupt, match=says):
            Index.open(path).verify()


def test_a_lost_log_is_no_silent_fall_back(tmp_path: Path) -> None:
    """SQLite shows the older state without a word when its log is damaged or gone; we do not."""
    make(tmp_path / "i", 6)
    code = HOLD.replace('print("held"', 'index.delete(["d0"]); print("held"')
    with python(code, tmp_path / "i") as writer:
        assert writer.stdout and writer.stdout.readline() == "held\n"
        writer.send_signal(signal.SIGKILL)
    log = tmp_path / "i/index.sqlite-wal"
    kept = log.read_bytes()
    for spoil in (log.unlink, lambda: os.truncate(log, len(kept) // 2), lambda: flip(log, 100, 0)):
        log.write_bytes(kept)
        spoil()
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(tmp_path / "i", tmp_path / "copy", ignore=shutil.ignore_patterns("*-shm"))
        with pytest.raises(IndexCorrupt, match=r"index\.sqlite-wal is damaged or missing"):
            Index.open(tmp_path / "copy")
    log.write_bytes(kept)
    with Index.open(tmp_path / "i") as index:
        assert "d0" not in index


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "i", 6)
    before = contents(tmp_path / "i")
    real = os.write
    for allowed in range(0, 400, 100):

        def write(file: int, data: Any, allowed: int = allowed) -> int:
            if os.fstat(file).st_size + len(data) > allowed:
                if os.fstat(file).st_size < allowed:
                    return real(file, bytes(data[: allowed - os.fstat(file).st_size]))
                raise OSError(28, "No space left on device")
            return real(file, data)

        with Index.open(tmp_path / "i", write=True) as index:
            monkeypatch.setattr(os, "write", write)
            with pytest.raises(
                IndexWriteFailed, match=r"No space left.*nothing of this write was kept"
            ):
                index.upsert(["d0", "n"], matrices(3, 2))
            with pytest.raises(IndexWriteFailed, match="No space left"):
                index.compact()
            monkeypatch.undo()
            assert len(index.search(matrices(5, 1))[0]) == 6
            index.verify()
        assert contents(tmp_path / "i") == before
        assert sorted(p.name for p in (tmp_path / "i/segments").iterdir()) == [
            "1.safetensors",
            "2.safetensors",
        ]


def test_everything_is_synced_before_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Power loss keeps what was synced: the file, its folder, the commit, then the witness."""
    order: list[str] = []
    real = os.fsync

    def fsync(file: int) -> None:
        order.append(Path(f"/proc/self/fd/{file}").readlink().name)
        real(file)

    with Index.create(tmp_path / "i", DIM) as index:
        db = index._storage._db
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        monkeypatch.setattr(os, "fsync", fsync)
        db.set_trace_callback(lambda sql: order.append(sql) if sql == "COMMIT" else None)
        index.add(["a"], matrices(0, 1))
        assert order == ["1.safetensors", "segments", "COMMIT", "commit"]
        index.delete(["a"])
        assert order[4:] == ["COMMIT", "commit"]


def test_a_full_database(tmp_path: Path) -> None:
    with Index.create(tmp_path / "i", DIM) as index:
        index.add(["a"], matrices(0, 1))
        pages = index._storage._db.execute("PRAGMA page_count").fetchone()[0]
        index._storage._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(IndexWriteFailed, match="full"):
            index.add([f"b{i}" for i in range(50)], matrices(1, 50), texts=["long " * 2000] * 50)
        assert index.ids() == ["a"] and len(list((tmp_path / "i/segments").iterdir())) == 1
        index.verify()
        index.delete(["a"])
        assert index.ids() == []


def test_orphans_go_with_the_next_write(tmp_path: Path) -> None:
    make(tmp_path / "i", 6)
    stray = tmp_path / "i/segments/3.safetensors"
    stray.write_bytes(b"half a segm")
    with Index.open(tmp_path / "i", write=True) as index:
        index.verify()
        index.delete(["d0"])
        assert not stray.exists()
        stray.write_bytes(b"half a segm")
        index.add(["n"], matrices(3, 1))
        index.verify()
    assert "n" in contents(tmp_path / "i")["ids"]


def test_unfinished_creation(tmp_path: Path) -> None:
    for left in ([], ["lock"], ["lock", "index.sqlite"], ["lock", "index.sqlite", "commit"]):
        path = tmp_path / f"i{len(left)}"
        (path / "segments").mkdir(parents=True)
        for name in left:
            (path / name).touch()
        with pytest.raises(IndexMissing, match="create it"):
            Index.open(path)
        with Index.create(path, DIM) as index:
            index.verify()


def test_overwrite_takes_the_place_of_a_broken_index(tmp_path: Path) -> None:
    path = damage(tmp_path, "index.sqlite", lambda file: os.truncate(file, 1000))
    with Index.create(path, DIM, overwrite=True) as index:
        assert index.ids() == [] and index.info().segments == 0
        index.verify()
    path = damage(tmp_path, "segments/1.safetensors", lambda file: flip(file, 9, 1))
    with Index.create(path, 3, overwrite=True) as index:
        index.add(["a"], np.ones((1, 1, 3)))
        index.verify()


def test_hostile_headers(tmp_path: Path) -> None:
    """Headers that lie, under checksums that match: an error, no view beyond the file."""
    file = tmp_path / "s.safetensors"
    for header in (
        b'{"a":{"dtype":"F16","shape":[4611686018427387904,4],"data_offsets":[0,0]}}',
        b'{"a":{"dtype":"F16","shape":[4],"data_offsets":[0,9]}}',
        b'{"a":{"dtype":"F16","shape":[-1],"data_offsets":[2,0]}}',
        b'{"a":{"dtype":"F16","shape":[4],"data_offsets":[-8,0]}}',
        b'{"a":{"dtype":"F16","shape":[400],"data_offsets":[0,800]}}',
        b'{"a":{"dtype":"PICKLE","shape":[4],"data_offsets":[0,8]}}',
        b'{"a":{"shape":[4]}}',
        b"[1]",
        b"{",
        b"\xff\xfe",
    ):
        for length in (len(header), 2**63, len(header) + 100):
            data = length.to_bytes(8, "little") + header + b"\0" * 8
            file.write_bytes(data)
            with pytest.raises(IndexCorrupt, match=r"s\.safetensors"):
                segments.SegmentFile(file, segments.Checksums.of(data))
