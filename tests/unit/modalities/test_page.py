from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from lateint.model import LateInteractionModel
from modalities import check_encoder, pdf
from modalities.layout import DIM, QueryContext
from modalities.media import MediaError
from modalities.page import MAX_PIXELS, MAX_WORDS, PageReader, PageText, _grey, typed


@pytest.fixture(scope="module")
def reader(shipped: LateInteractionModel) -> PageReader:
    encoder = shipped.encoder("page")
    assert isinstance(encoder, PageReader)
    return encoder


@pytest.fixture(scope="module")
def text(shipped: LateInteractionModel) -> PageText:
    encoder = shipped.encoder("text")
    assert isinstance(encoder, PageText)
    return encoder


@pytest.fixture(scope="module")
def pages(fixtures: Path) -> list[Image.Image]:
    """The upper parts of two pages of different size, and a scan."""
    first = [next(pdf.pages(fixtures / n)).image for n in ("kestrel-manual.pdf", "letter-scan.pdf")]
    return [image.crop((0, 0, image.width - 40 * i, 300)) for i, image in enumerate(first)]


def test_contract_of_the_page_reader(reader: PageReader, pages: list[Image.Image]) -> None:
    check_encoder(reader, [*pages, Image.new("RGB", (50, 70), "white")], atol=1e-4)


@pytest.mark.parametrize("role", ["query", "document"])
def test_contract_of_the_text_side(text: PageText, role: str) -> None:
    items = [
        "set the rain gauge counter back to zero",
        "E17",
        "# Heading\n\nline one\nline two",
        "...",
    ]
    check_encoder(text, items, role=role, atol=1e-4)  # type: ignore[arg-type]


@torch.inference_mode()
def test_a_page_meets_a_query_for_its_words(
    reader: PageReader, text: PageText, fixtures: Path
) -> None:
    images = [page.image for page in pdf.pages(fixtures / "kestrel-manual.pdf", numbers=[3, 5])]
    grid = reader(reader.prepare(images, "document"))
    query = text(text.prepare(["rain gauge counter back to zero"], "query")).tokens[0]
    scores = [float((query @ grid.tokens[i, grid.mask[i]].T).max(1).values.sum()) for i in range(2)]
    assert scores[0] > scores[1] + 0.5
    assert grid.boxes is not None and grid.boxes[0, 0].tolist() == [0, 0, 1, 1]  # the page's own
    assert grid.tokens.shape[2] == reader.dim == text.dim == DIM


@torch.inference_mode()
def test_a_blank_page_has_its_own_token_and_no_more(reader: PageReader) -> None:
    grid = reader(reader.prepare([Image.new("L", (400, 600), "white")], "document"))
    assert grid.shape == ((1, 1),)
    assert reader.labels(Image.new("L", (40, 60), "black"), "document") == ["[page]"]


def test_a_giant_image_is_made_smaller_and_a_page_is_not(
    reader: PageReader, tmp_path: Path
) -> None:
    giant = Image.new("L", (6000, 4000), "white")
    ImageDraw.Draw(giant).rectangle((0, 0, 2999, 3999), fill="black")
    grey = _grey(giant)
    assert grey.numel() < MAX_PIXELS / 1.9
    assert grey.shape[1] / grey.shape[0] == pytest.approx(1.5, abs=0.01)
    assert int(grey[5, 5]) == 0 and int(grey[5, -5]) == 255
    assert _grey(Image.new("RGB", (1170, 1650))).shape == (1650, 1170)  # A3 at 100 dpi
    thin = _grey(Image.new("L", (2_000_000, 2)))
    assert 0 < thin.numel() < MAX_PIXELS
    bomb = tmp_path / "bomb.png"
    Image.new("1", (9000, 9000)).save(bomb)
    with pytest.raises(MediaError, match=r"bomb\.png: 9000 x 9000 pixels"):
        reader.prepare([bomb], "document")


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "LA", "RGBA", "CMYK", "I;16"])
def test_images_of_any_mode(reader: PageReader, mode: str) -> None:
    assert reader.prepare([Image.new(mode, (30, 20))], "document").inputs["pixels"].shape == (
        1,
        20,
        30,
    )


def test_no_more_words_than_the_limits(text: PageText) -> None:
    many = "word " * (MAX_WORDS + 500)
    assert len(text.labels(many, "document")) == 1 + MAX_WORDS == text.cost([many], "document")[0]
    assert len(text.labels(many, "query")) == 1 + QueryContext.MAX_WORDS
    with torch.inference_mode():
        grid = text(text.prepare([many], "query"))
    assert grid.shape == ((1, 1 + QueryContext.MAX_WORDS),)


def test_labels_are_the_words_as_written(text: PageText) -> None:
    assert text.labels("Größe E17, ok?", "query") == ["[query]", "Größe", "E17", "ok"]
    assert text.labels("天气", "document") == ["[text]"]


def test_typed_puts_words_where_a_typist_would() -> None:
    boxes = typed("# Big head\nfirst line here\n" + "word " * 60)
    assert len(boxes) == 2 + 3 + 60
    assert ((boxes >= 0) & (boxes <= 1)).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    height = boxes[:, 3] - boxes[:, 1]
    assert height[0] > 1.4 * height[2]  # a heading
    assert (boxes[2:5, 1] == boxes[2, 1]).all() and boxes[2, 1] > boxes[0, 3]
    assert len(set(boxes[5:, 1].tolist())) == 4  # 300 characters are four lines of 92
    long = typed("word\n" * 500)
    assert len(long) == 500 and long.max() <= 1
    assert typed("...").shape == (0, 4)


def test_shipped_weights_are_small_and_the_same_for_all(reader: PageReader, text: PageText) -> None:
    import modalities

    weights = Path(modalities.__file__).parent / "weights"
    assert sum(file.stat().st_size for file in weights.iterdir()) < 60_000_000
    other = PageReader.shipped().state_dict()
    assert all(torch.equal(tensor, other[name]) for name, tensor in reader.state_dict().items())
    shared = text.layout.state_dict()
    assert all(
        torch.equal(tensor, shared[name]) for name, tensor in reader.layout.state_dict().items()
    )
