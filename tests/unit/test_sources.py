from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_pdf import write_encrypted, write_huge_page, write_pdf
from PIL import Image

from lateint import sources
from lateint.sources import PART_WORDS, SourceError


def test_walk_finds_known_files_by_name_and_passes_over_hidden_ones(tmp_path: Path) -> None:
    for name in (
        "b.pdf",
        "a/z.TXT",
        "a/c.png",
        ".git/x.txt",
        ".hidden.txt",
        "a/data.csv",
        "skip/y.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    found = list(sources.walk(tmp_path, skip=[tmp_path / "skip"]))
    assert found == [tmp_path / "b.pdf", tmp_path / "a/c.png", tmp_path / "a/z.TXT"]


def test_a_pdf_gives_its_pages_with_words_and_section(tmp_path: Path) -> None:
    pages = ["red apples", "plain", "blue sky"]
    path = write_pdf(tmp_path / "p.pdf", pages, outline=[("Fruit", 1), ("Sky", 3)])
    documents = list(sources.read(path, dpi=72))
    assert [d.suffix for d in documents] == ["#page=1", "#page=2", "#page=3"]
    assert [d.text for d in documents] == pages
    assert [d.metadata["section"] for d in documents] == ["Fruit", "Fruit", "Sky"]
    assert documents[0].item.size == (200, 300)
    assert documents[0].words[1].text == "apples"
    assert (
        documents[2].metadata["page"] == 3 and documents[2].metadata["size"] == path.stat().st_size
    )


def test_only_wanted_pages_are_rendered(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "p.pdf", ["one", "two", "three"])
    assert [d.number for d in sources.read(path, wanted=lambda n: n != 2)] == [1, 3]


def test_a_bad_page_is_reported_and_a_bad_file_raises(tmp_path: Path) -> None:
    huge = write_huge_page(tmp_path / "huge.pdf")
    reasons: list[str] = []
    assert list(sources.read(huge, on_problem=reasons.append)) == []
    assert len(reasons) == 1 and "page 1" in reasons[0] and "megapixels" in reasons[0]
    with pytest.raises(SourceError, match="encrypted"):
        list(sources.read(write_encrypted(tmp_path / "e.pdf")))
    (tmp_path / "x.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"x\.png"):
        list(sources.read(tmp_path / "x.png"))
    with pytest.raises(SourceError, match="kind of file"):
        list(sources.read(tmp_path / "x.csv"))


def test_a_picture_is_one_document(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    (document,) = sources.read(tmp_path / "red.png")
    assert (document.suffix, document.item.size, document.metadata["width"]) == ("", (30, 20), 30)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("naïve".encode(), "naïve"),
        ("naïve".encode("utf-8-sig"), "naïve"),
        ("naïve".encode("utf-16"), "naïve"),
        ("naïve".encode("cp1252"), "naïve"),
    ],
)
def test_encodings_of_texts(tmp_path: Path, raw: bytes, text: str) -> None:
    (tmp_path / "t.txt").write_bytes(raw)
    assert sources.read_text(tmp_path / "t.txt") == text


@pytest.mark.parametrize("raw", [b"", b" \n ", b"ab\0cd"])
def test_what_is_no_text_is_refused(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "t.txt").write_bytes(raw)
    with pytest.raises(SourceError):
        list(sources.read(tmp_path / "t.txt"))


def test_titles_of_texts(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("some words\n\n## The orchard ##\n\nmore")
    (tmp_path / "b.txt").write_text("Notes of May\n\nrain")
    (tmp_path / "c.txt").write_text("word " * 50)
    titles = [
        next(sources.read(tmp_path / n)).metadata["title"] for n in ("a.md", "b.txt", "c.txt")
    ]
    assert titles == ["The orchard", "Notes of May", "c"]


def test_long_texts_are_cut_between_paragraphs(tmp_path: Path) -> None:
    paragraphs = [f"p{i} " + "word " * 99 for i in range(7)]
    (tmp_path / "t.txt").write_text("\n\n".join(paragraphs))
    documents = list(sources.read(tmp_path / "t.txt"))
    assert [d.suffix for d in documents] == ["", "#part=2", "#part=3", "#part=4"]
    assert [d.item.split()[0] for d in documents] == ["p0", "p2", "p4", "p6"]


@given(st.text(st.sampled_from("ab.! \n"), max_size=400), st.integers(1, 7))
def test_no_word_is_lost_or_doubled_by_cutting(text: str, words: int) -> None:
    parts = sources.split_text(text, words)
    assert " ".join(parts).split() == text.split()
    assert all(0 < len(part.split()) <= words for part in parts)


def test_a_text_without_blanks_is_cut_too() -> None:
    parts = sources.split_text("x" * 100_000)
    assert max(len(part.split()) for part in parts) <= PART_WORDS
    assert sum(part.count("x") for part in parts) == 100_000
