"""What an ingest does beyond what a collection shows: with encoders and files that misbehave."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_pdf import write_pdf

import lateint.ingest
from lateint.explain import Traces
from lateint.index import Index
from lateint.ingest import AddReport, Encode, Ingest, check_metadata, find_files
from lateint.ledger import Ledger
from lateint.sources import SourceDocument


class House:
    """An index, a ledger and a folder of texts; `add` runs one ingest over the folder."""

    def __init__(self, path: Path) -> None:
        self.folder = path / "texts"
        self.folder.mkdir()
        self.index = Index.create(path / "index", 4)
        self.ledger = Ledger(path / "collection.sqlite", create=True)

    def write(self, **texts: str) -> None:
        for name, text in texts.items():
            (self.folder / f"{name}.txt").write_text(text)

    def add(self, encode: Encode | None = None, **options: Any) -> AddReport:
        files, unlisted = find_files(self.ledger, [self.folder], skip=[])
        assert unlisted == []
        run = Ingest(self.index, self.ledger, encode or tokens, cache=None, dpi=50, **options)
        return run.run(files)


def tokens(documents: Sequence[SourceDocument]) -> list[tuple[Any, Traces]]:
    """One token a word, of its length and first letter."""
    found = []
    for document in documents:
        rows = [[len(w), ord(w[0]), 1, 0] for w in document.text.split() if w != "blank"]
        matrix = np.array(rows, np.float32).reshape(-1, 4)
        found.append(
            (matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9), Traces())
        )
    return found


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def failing(on: str, error: Exception) -> Encode:
    def encode(documents: Sequence[SourceDocument]) -> list[tuple[Any, Traces]]:
        if any(on in document.text for document in documents):
            raise error
        return tokens(documents)

    return encode


def test_one_document_that_the_model_cannot_read_stops_no_other(house: House) -> None:
    house.write(a="good", b="poison", c="good too")
    report = house.add(failing("poison", ValueError("too strange")))
    assert sorted(house.index.ids()) == ["a.txt", "c.txt"]
    assert [(Path(p.path).name, p.reason) for p in report.problems] == [
        ("b.txt", "the model cannot read it (too strange)")
    ]
    assert house.ledger.problems()[0][1] == report.problems[0].reason


def test_a_fault_of_the_program_is_not_a_problem_of_a_file(house: House) -> None:
    house.write(a="good", b="poison")
    with pytest.raises(RuntimeError, match="a bug"):
        house.add(failing("poison", RuntimeError("a bug")))
    assert house.add().documents == 2  # nothing was called done that was not


def test_tokens_that_are_not_finite_are_kept_out(house: House) -> None:
    def encode(documents: Sequence[SourceDocument]) -> list[tuple[Any, Traces]]:
        return [(rows * np.nan, t) if "nan" in d.text else (rows, t)
                for d, (rows, t) in zip(documents, tokens(documents), strict=True)]  # fmt: skip

    house.write(a="nan here", b="fine")
    (problem,) = house.add(encode).problems
    assert Path(problem.path).name == "a.txt" and "not finite" in problem.reason
    assert house.index.ids() == ["b.txt"]


def test_a_page_that_becomes_blank_can_no_longer_be_found(house: House) -> None:
    house.write(a="some words", b="blank")
    report = house.add()
    assert (report.documents, report.blank, house.index.ids()) == (2, 1, ["a.txt"])
    assert house.add().documents == 0  # a blank page is not read again and again
    house.write(a="blank", b="now words")
    report = house.add()
    assert (report.files_updated, report.blank) == (2, 1)
    assert house.index.ids() == ["b.txt"] and house.ledger.counts() == (2, 2, 1)


def test_memory_is_one_window(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lateint.ingest, "WINDOW_DOCUMENTS", 3)
    sizes: list[int] = []

    def encode(documents: Sequence[SourceDocument]) -> list[tuple[Any, Traces]]:
        sizes.append(len(documents))
        return tokens(documents)

    house.write(**{f"t{i}": f"text {i}" for i in range(7)})
    assert house.add(encode).documents == 7
    assert sizes == [3, 3, 1]
    sizes.clear()
    monkeypatch.setattr(lateint.ingest, "WINDOW_PIXELS", 1)  # large pictures: fewer at once
    write_pdf(house.folder / "p.pdf", ["a", "b"])
    house.add(encode)
    assert sizes == [1, 1]


def test_a_commit_every_so_many_documents_and_seconds(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lateint.ingest, "WINDOW_DOCUMENTS", 2)
    monkeypatch.setattr(lateint.ingest, "COMMIT_DOCUMENTS", 4)
    held: list[int] = []
    house.write(**{f"t{i}": f"text {i}" for i in range(9)})
    house.add(progress=lambda path, documents: held.append(len(house.index)))
    assert set(held) == {0, 4, 8} and len(house.index) == 9
    monkeypatch.setattr(lateint.ingest, "COMMIT_SECONDS", 0.0)
    house.write(**{f"u{i}": f"text {i}" for i in range(4)})
    held.clear()
    house.add(progress=lambda path, documents: held.append(len(house.index)))
    assert {11, 13} >= set(held) - {9} and len(house.index) == 13


def full(*args: Any, **options: Any) -> None:
    raise OSError("disk full")


def test_an_index_that_refuses_leaves_the_ledger_behind_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the ledger calls done can be found, also when the disk is full in between."""
    house.write(a="one", b="two")
    with monkeypatch.context() as patch:
        patch.setattr(house.index, "upsert", full)
        with pytest.raises(OSError, match="disk full"):
            house.add()
    assert house.ledger.counts() == (0, 0, 0)
    with monkeypatch.context() as patch:  # the other way round: the index has it, the ledger not
        patch.setattr(house.ledger, "put_documents", full)
        with pytest.raises(OSError, match="disk full"):
            house.add()
    assert len(house.index) == 2 and house.ledger.counts() == (0, 0, 0)
    assert house.add().documents == 2 and len(house.index) == 2


def test_files_are_found_once_each_with_their_root(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "collection.sqlite", create=True)
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/x.txt", "a/b/y.txt"):
        (tmp_path / name).write_text("x")
    a, b = tmp_path / "a", tmp_path / "a" / "b"
    files, _ = find_files(ledger, [b, a, a, b / "y.txt"], skip=[])
    assert [(root.prefix, path.name) for root, path in files] == [("", "y.txt"), ("a/", "x.txt")]
    assert find_files(ledger, [a], skip=[b])[0] == [(ledger.roots()[1], a / "x.txt")]


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"path": "x"}, "'path'"),
        ({"version": 1}, "'version'"),
        ({1: 2}, "names as keys"),
        ("year=2", "a dictionary"),
        ({"when": object()}, "JSON"),
        ({"x": float("nan")}, "JSON"),
    ],
)
def test_metadata_that_cannot_be_kept(metadata: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_metadata(metadata)
    assert check_metadata({"tags": ("a", "b")}) == {"tags": ["a", "b"]}
