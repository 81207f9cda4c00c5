from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from make_pdf import (
    write_broken,
    write_encrypted,
    write_huge_page,
    write_pdf,
    write_without_pages,
)

from modalities import pdf
from modalities.pdf import Glyphs, PdfError


def test_pages_have_image_number_size_and_words(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "p.pdf", ["red apples", "blue sky"])
    first, second = pdf.pages(path, dpi=72)
    assert (first.number, second.number, first.source) == (1, 2, path)
    assert first.size == (200, 300) and first.image.size == (200, 300)
    assert first.image.mode == "RGB" and first.text == "red apples" and second.text == "blue sky"
    assert first.image.getpixel((100, 250)) == (255, 0, 0)  # the lower half is red
    assert first.image.getpixel((100, 100)) == (255, 255, 255)


def test_boxes_lie_on_the_print(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "p.pdf", ["apples pears"])
    (page,) = pdf.pages(path, dpi=144, grey=True)
    assert page.image.mode == "L"
    ink = np.asarray(page.image) < 128
    rows, columns = np.nonzero(ink)
    assert [word.text for word in page.words] == ["apples", "pears"]
    boxes = np.array([word.box for word in page.words]) * [400, 600, 400, 600]
    assert boxes[0, 2] < boxes[1, 0]  # one beside the other
    assert boxes[0, 0] == pytest.approx(columns.min(), abs=3)
    assert boxes[1, 2] == pytest.approx(columns.max(), abs=3)
    assert boxes[:, 1].min() <= rows.min() and rows.max() <= boxes[:, 3].max()
    inside = np.zeros_like(ink)
    for x0, y0, x1, y1 in np.rint(boxes).astype(int):
        inside[y0:y1, x0:x1] = True
    assert ink[inside].sum() >= 0.99 * ink.sum()


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_page_is_shown_as_it_is_read_and_so_are_its_boxes(
    tmp_path: Path, rotation: int
) -> None:
    path = write_pdf(tmp_path / "p.pdf", ["apples"])
    turned = path.read_bytes().replace(b"/MediaBox", b"/Rotate %d /MediaBox" % rotation)
    path.write_bytes(turned)
    (page,) = pdf.pages(path, dpi=72)
    assert page.size == ((300, 200) if rotation in (90, 270) else (200, 300))
    ink = np.argwhere(np.asarray(page.image.convert("L")) < 128) / page.image.size[::-1]
    (word,) = page.words
    middle = ink.mean(axis=0)
    assert word.box[0] <= middle[1] <= word.box[2] and word.box[1] <= middle[0] <= word.box[3]


def test_lines_divide_words_and_outline_points_to_pages(tmp_path: Path) -> None:
    outline = [("Fruit", 1), ("Sky", 2)]
    path = write_pdf(tmp_path / "p.pdf", ["one\ntwo", "three"], outline=outline)
    assert next(pdf.pages(path)).text == "one two"
    assert [(e.title, e.page, e.level) for e in pdf.outline(path)] == [
        ("Fruit", 1, 0),
        ("Sky", 2, 0),
    ]
    assert pdf.outline(path, max_entries=1)[0].title == "Fruit"
    assert pdf.outline(write_pdf(tmp_path / "q.pdf", ["none"])) == []


def test_pages_are_rendered_one_by_one_when_they_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_pdf(tmp_path / "p.pdf", [f"page {i}" for i in range(5)])
    rendered: list[int] = []
    inner = pdf._page
    monkeypatch.setattr(pdf, "_page", lambda *a: (rendered.append(a[2]), inner(*a))[1])
    run = pdf.pages(path)
    assert rendered == []
    next(run)
    assert rendered == [1]
    next(run)
    assert rendered == [1, 2]
    run.close()
    assert [page.number for page in pdf.pages(path, numbers=[4, 2])] == [4, 2]
    assert rendered == [1, 2, 4, 2]


def test_glyphs_without_rendering(tmp_path: Path) -> None:
    path = write_pdf(tmp_path / "p.pdf", ["ab c", "d"])
    found = dict(pdf.glyphs(path))
    assert list(found) == [1, 2] and found[1].text.strip() == "ab c"
    assert found[1].boxes.shape == (len(found[1].text), 4)
    assert [w.text for w in found[1].words()] == ["ab", "c"]
    assert [number for number, _ in pdf.glyphs(path, [2])] == [2]


def test_words_leave_out_what_has_no_box() -> None:
    boxes = np.array([[0, 0, 0.1, 0.1], [0.1, 0, 0.2, 0.1], [0] * 4, [0] * 4], np.float32)
    glyphs = Glyphs("ab c", boxes, np.zeros(4, np.float32))
    (word,) = glyphs.words()
    assert word.text == "ab" and word.box == pytest.approx((0, 0, 0.2, 0.1))
    assert Glyphs("", np.zeros((0, 4), np.float32), np.zeros(0, np.float32)).words() == ()


BAD = {
    "broken": (write_broken, "not a PDF, or too damaged"),
    "encrypted": (write_encrypted, "encrypted: save a copy without a password"),
    "without-pages": (write_without_pages, "it has no pages"),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_cannot_be_read_say_so_and_name_themselves(tmp_path: Path, name: str) -> None:
    write, reason = BAD[name]
    path = write(tmp_path / f"{name}.pdf")
    for ask in (pdf.page_count, pdf.outline, lambda p: list(pdf.pages(p))):
        with pytest.raises(PdfError, match=reason) as caught:
            ask(path)
        assert caught.value.path == path and str(path) in str(caught.value)
        assert caught.value.page is None


def test_no_file_no_bytes_no_plain_file(tmp_path: Path) -> None:
    (tmp_path / "empty.pdf").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.pdf")
    cases = {"empty.pdf": "0 bytes", "pipe.pdf": "not a regular", "gone.pdf": "No such file"}
    for name, reason in cases.items():
        with pytest.raises(PdfError, match=f"{name}: .*{reason}"):
            pdf.page_count(tmp_path / name)


def test_an_enormous_page_names_its_number_and_the_others_are_read(tmp_path: Path) -> None:
    path = write_huge_page(tmp_path / "huge.pdf")
    with pytest.raises(PdfError, match=r"huge\.pdf, page 1: .*megapixels at 100 dpi.*lower dpi"):
        list(pdf.pages(path))
    assert len(list(pdf.pages(path, dpi=5))) == 1  # what the message says helps
    told: list[PdfError] = []
    assert list(pdf.pages(path, on_error=told.append)) == []
    assert [error.page for error in told] == [1]
    good = write_pdf(tmp_path / "good.pdf", ["a", "b"])
    told.clear()
    read = [page.number for page in pdf.pages(good, numbers=[1, 7, 2], on_error=told.append)]
    assert read == [1, 2]
    assert "no such page: the file has 2" in told[0].reason and told[0].page == 7


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pdf(tmp_path / "p.pdf", ["four little words here", "b"])
    monkeypatch.setattr(pdf, "MAX_CHARACTERS", 10)
    with pytest.raises(PdfError, match=r"page 1: .*characters, the limit is 10"):
        list(pdf.pages(path))
    with pytest.raises(PdfError, match="the limit is 10"):
        list(pdf.glyphs(path))
    monkeypatch.setattr(pdf, "MAX_FILE_BYTES", 100)
    with pytest.raises(PdfError, match="the limit is 100: split"):
        pdf.page_count(path)
    monkeypatch.undo()
    with (
        pytest.raises(PdfError, match="2 pages, the limit is 1: split"),
        pdf._document(path, max_pages=1),
    ):
        pass
    tiny = write_pdf(tmp_path / "tiny.pdf", ["x"], size=(0.5, 0.5))
    with pytest.raises(PdfError, match=r"tiny\.pdf, page 1"):
        list(pdf.pages(tiny, dpi=10))


def test_damage_anywhere_gives_pages_or_an_error(tmp_path: Path) -> None:
    """Cut short and overwritten in many places: never another exception, never a hang."""
    good = write_pdf(tmp_path / "p.pdf", ["red page", "two"], outline=[("A", 1)]).read_bytes()
    path, refused = tmp_path / "damaged.pdf", 0
    for place in range(0, len(good), 41):
        for damaged in (good[:place], good[:place] + b"\xff\x00<<" + good[place + 4 :]):
            path.write_bytes(damaged)
            try:
                for page in pdf.pages(path, dpi=20):
                    assert page.image.width > 0
                pdf.outline(path)
            except PdfError as error:
                assert "damaged.pdf" in str(error)
                refused += 1
    assert refused > 10
