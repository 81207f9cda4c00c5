from __future__ import annotations

import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lateint.explain import Traces
from lateint.ledger import (
    CollectionError,
    DocumentRecord,
    FileRecord,
    Ledger,
    Root,
    file_name,
    shown,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "collection.sqlite", create=True)


def put(ledger: Ledger, root: Root, path: str, documents: int = 1, **changes: object) -> FileRecord:
    record = FileRecord(root.root, path, root.prefix + path, 10, 20, "digest", "v1", {})
    with ledger.transaction():
        stored = ledger.put_file(replace(record, **changes))  # type: ignore[arg-type]
        ledger.put_documents(
            DocumentRecord(f"{stored.name}#page={n}", stored.file, n, "v1", n - 1, Traces())
            for n in range(1, documents + 1)
        )
    return stored


def test_the_first_root_has_no_prefix_and_later_ones_their_folder_s_name(
    ledger: Ledger, tmp_path: Path
) -> None:
    with ledger.transaction():
        prefixes = [ledger.root_for(Path(p)).prefix for p in ("/a/x", "/b/y", "/c/y", "/d/y", "/")]
    assert prefixes == ["", "y/", "y-2/", "y-3/", "root/"]
    assert [root.folder for root in ledger.roots()][:2] == [Path("/a/x"), Path("/b/y")]
    with ledger.transaction():  # below a root, and a root itself, are known
        assert ledger.root_for(Path("/a/x/deep/er")).prefix == ""
        assert ledger.root_for(Path("/b/y")).prefix == "y/"
    assert len(ledger.roots()) == 5


def test_a_prefix_never_makes_a_name_that_a_file_has(ledger: Ledger) -> None:
    with ledger.transaction():
        first = ledger.root_for(Path("/a"))
    put(ledger, first, "y/report.pdf")
    with ledger.transaction():
        assert ledger.root_for(Path("/b/y")).prefix == "y-2/"


def test_the_deepest_root_holds_a_path(ledger: Ledger) -> None:
    with ledger.transaction():
        deep, top = ledger.root_for(Path("/a/b")), ledger.root_for(Path("/a"))
    assert ledger.root_of(Path("/a/b/c")) == deep
    assert ledger.root_of(Path("/a/bc")) == top
    assert ledger.root_of(Path("/other")) is None


def test_files_and_documents_come_back_as_they_were_put(ledger: Ledger) -> None:
    with ledger.transaction():
        root = ledger.root_for(Path("/a"))
    stored = put(ledger, root, "größe 1.pdf", 3, metadata={"jahr": 2024, "a": ["ü", None]})
    assert ledger.file("größe 1.pdf") == stored and not stored.done
    assert ledger.path_of(stored) == Path("/a/größe 1.pdf")
    assert ledger.file_of("größe 1.pdf#page=2") == stored
    assert ledger.file("other") is None and ledger.file_of("größe 1.pdf") is None
    assert ledger.documents(stored.file) == [
        (f"größe 1.pdf#page={n}", n, "v1", n - 1) for n in (1, 2, 3)
    ]
    assert ledger.counts() == (1, 3, 1)
    again = put(ledger, root, "größe 1.pdf", 0, version="v2", done=True)
    assert again.file == stored.file  # the same file, so its documents stay
    assert ledger.counts() == (1, 3, 1)
    with ledger.transaction():
        ledger.drop_documents(["größe 1.pdf#page=1"])
    assert ledger.counts() == (1, 2, 0)
    with ledger.transaction():
        ledger.drop_file(stored.file)
    assert ledger.counts() == (0, 0, 0) and ledger.files() == []


def test_a_transaction_is_all_or_nothing(ledger: Ledger) -> None:
    with pytest.raises(RuntimeError), ledger.transaction():
        ledger.root_for(Path("/a"))
        ledger.set_facts(model="other")
        raise RuntimeError
    assert ledger.roots() == [] and "model" not in ledger._facts()
    with pytest.raises(sqlite3.IntegrityError), ledger.transaction():
        ledger.put_documents([DocumentRecord("x", 99, 1, "v", 1, Traces())])  # of no file


def test_traces_are_for_one_version_of_a_document(ledger: Ledger) -> None:
    with ledger.transaction():
        root = ledger.root_for(Path("/a"))
    file = put(ledger, root, "a.pdf", 0).file
    traces = Traces(np.array([[0, 0.25, 0.5, 1]], np.float32), ("wörd",))
    with ledger.transaction():
        ledger.put_documents([DocumentRecord("a.pdf", file, 1, "v1", 1, traces)])
    again = ledger.traces("a.pdf", "v1")
    assert again.labels == ("wörd",) and again.boxes is not None
    assert again.boxes[0].tolist() == pytest.approx([0, 0.25, 0.5, 1], abs=1e-4)
    assert ledger.traces("a.pdf", "v2") == Traces() == ledger.traces("b.pdf", "v1")
    for damage in (b"", b"\x00\x01", b"x" * 50):
        with ledger.transaction():
            ledger._db.execute("UPDATE documents SET traces = ?", (damage,))
        with pytest.raises(CollectionError, match=r"record of 'a\.pdf' is damaged"):
            ledger.traces("a.pdf", "v1")


def test_problems_are_replaced_and_cleared(ledger: Ledger, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b"/a/\xff.pdf"))
    with ledger.transaction():
        ledger.set_problems(tmp_path, ["first", "second", "first"])
        ledger.set_problems(odd, ["its name"])
    assert ledger.problems() == [
        ("/a/\ufffd.pdf", "its name"),
        (str(tmp_path), "first"),
        (str(tmp_path), "second"),
    ]
    with ledger.transaction():
        ledger.set_problems(tmp_path, ["third"])
        ledger.set_problems(odd, [])
    assert ledger.problems() == [(str(tmp_path), "third")]
    assert shown(Path("/a/ü.pdf")) == "/a/ü.pdf"


def test_vanished_files_are_those_below_the_folders_asked_about(
    ledger: Ledger, tmp_path: Path
) -> None:
    with ledger.transaction():
        root = ledger.root_for(tmp_path)
    for name in ("here.txt", "gone.txt", "sub/gone.txt"):
        put(ledger, root, name)
    (tmp_path / "here.txt").touch()
    assert [r.name for r in ledger.vanished([tmp_path])] == ["gone.txt", "sub/gone.txt"]
    assert [r.name for r in ledger.vanished([tmp_path / "sub"])] == ["sub/gone.txt"]
    assert [r.name for r in ledger.vanished([tmp_path / "gone.txt"])] == ["gone.txt"]


def test_names_have_forward_slashes_and_the_prefix() -> None:
    assert file_name(Root(1, Path("/a"), "y/"), Path("/a/b/c.pdf")) == ("b/c.pdf", "y/b/c.pdf")


def test_what_is_no_ledger_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "collection.sqlite"
    with pytest.raises(CollectionError, match="no collection here"):
        Ledger(path)
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(CollectionError, match="not a collection, or damaged"):
        Ledger(path)
    path.unlink()
    sqlite3.connect(path).execute("CREATE TABLE facts (key TEXT, value TEXT)").connection.close()
    with pytest.raises(CollectionError, match="not a lateint collection"):
        Ledger(path)


def test_a_ledger_of_a_later_version_asks_for_an_upgrade(ledger: Ledger) -> None:
    with ledger.transaction():
        ledger.set_facts(version=2)
    ledger.close()
    with pytest.raises(CollectionError, match="format version 2, this lateint knows 1: upgrade"):
        Ledger(ledger.path)
