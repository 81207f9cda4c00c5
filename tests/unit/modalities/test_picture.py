from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch.nn import functional as F

from lateint.encoding import CollectionModel
from lateint.model import LateInteractionModel
from modalities import check_encoder, pdf
from modalities.grid import TokenGrid
from modalities.layout import DIM
from modalities.media import MediaError
from modalities.page import PageReader, PageText
from modalities.paper import ink_of
from modalities.picture import GRID, QUERY_CELL, REDUCED, PictureReader, PictureTower, cells
from modalities.picture_net import CELLS, COARSE, FINE, LiteNet, folded

SEEN = 1 + GRID * GRID  # tokens of what a picture shows


@pytest.fixture(scope="module")
def reader(shipped: LateInteractionModel) -> PictureReader:
    encoder = shipped.encoder("image")
    assert isinstance(encoder, PictureReader)
    return encoder


@pytest.fixture(scope="module")
def text(shipped: LateInteractionModel) -> PageText:
    encoder = shipped.encoder("text")
    assert isinstance(encoder, PageText)
    return encoder


def written(line: str, size: tuple[int, int] = (480, 60)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).text((20, 20), line, fill="black", font=ImageFont.load_default(18))
    return image


def disc(colour: str, size: tuple[int, int] = (160, 120)) -> Image.Image:
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((40, 20, 120, 100), fill=colour)
    return image


@pytest.mark.parametrize("role", ["query", "document"])
def test_contract(reader: PictureReader, role: str) -> None:
    items = [disc("red"), written("the ferry leaves at noon"), disc("navy", (90, 200))]
    check_encoder(reader, items, role=role, atol=1e-4)  # type: ignore[arg-type]


def test_the_net_is_efficientnet_lite0() -> None:
    import timm

    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    for module in theirs.modules():  # norms that do something
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.8, 1.6)
            module.bias.data.normal_(0, 0.1)
    ours = LiteNet().eval()
    ours.load_state_dict(folded(theirs.state_dict()))
    pixels = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        features = ours(pixels)
        wanted = theirs.forward_features((pixels.float() - 127.5) / 127.5)
        wide = ours.wide(features)
        logits = theirs((pixels.float() - 127.5) / 127.5)
    assert features.shape == (2, CELLS * CELLS, COARSE + FINE)
    mine = wide.transpose(1, 2).reshape(wanted.shape)
    # random weights in fifty layers: rounding grows, another order of the weights would be far off
    torch.testing.assert_close(mine, wanted, atol=5e-3, rtol=1e-3)
    torch.testing.assert_close(ours.classes(wide.mean(1)), logits, atol=5e-3, rtol=1e-3)
    assert float(wanted.std()) > 0.1


def test_another_net_is_refused() -> None:
    state = {f"layer{i}.weight": torch.zeros(3, 3) for i in range(7)}
    with pytest.raises(ValueError, match="7 tensors, EfficientNet-Lite0 has"):
        folded(state)


@torch.inference_mode()
def test_a_picture_without_print_has_a_token_a_cell(reader: PictureReader) -> None:
    grid = reader(reader.prepare([disc("green")], "document"))
    assert grid.shape == ((1, SEEN),)
    assert grid.boxes is not None and grid.pooled is not None
    torch.testing.assert_close(grid.boxes[0, 1:], cells())
    torch.testing.assert_close(grid.tokens[0].norm(dim=1), torch.ones(SEEN))
    assert reader.labels(disc("green"), "document")[:3] == ["[picture]", "r0c0", "r0c1"]


@torch.inference_mode()
def test_circles_and_strokes_are_no_words(reader: PictureReader) -> None:
    """They look like o and l; such a word would draw every query to a drawing."""
    picture = Image.new("RGB", (200, 120), "white")
    ImageDraw.Draw(picture).ellipse((60, 50, 68, 62), outline="black")
    ImageDraw.Draw(picture).line((120, 48, 120, 62), fill="black", width=2)
    inputs = reader.prepare([picture], "document")
    assert len(reader.page.reader.read(ink_of(inputs.inputs["pixels"][0])).boxes)
    assert reader(inputs).shape == ((1, SEEN),)


@torch.inference_mode()
def test_pictures_are_on_a_level_with_pages(
    reader: PictureReader, text: PageText, fixtures: Path
) -> None:
    """Drawings are as near as pages or nearer to words that are in neither, so that they are found
    among pages; words that are in a page are nearer to it."""
    asked = ["zebra", "tractor", "umbrella", "violin", "cactus", "penguin"]
    shown = [page.image for page in pdf.pages(fixtures / "kestrel-manual.pdf")]
    pages = reader.page(reader.page.prepare(shown, "document"))
    drawn = reader(reader.prepare([disc(c) for c in ("green", "red", "blue")], "document"))

    def near(grid: TokenGrid, words: list[str]) -> float:
        query = text(text.prepare(words, "query"))
        rows = F.normalize(query.tokens[:, 1:][query.mask[:, 1:]], dim=-1)
        best = [
            (rows @ own[real].T).amax(1) for own, real in zip(grid.tokens, grid.mask, strict=True)
        ]
        return float(torch.stack(best).amax(0).mean())

    printed = near(pages, ["kestrel", "rain", "gauge", "station", "counter"])
    assert near(pages, asked) - 0.1 < near(drawn, asked) < printed - 0.2
    torch.testing.assert_close(drawn.tokens.norm(dim=2), torch.ones(3, SEEN))


@torch.inference_mode()
def test_a_picture_of_print_is_found_by_its_words(reader: PictureReader, text: PageText) -> None:
    items = [written("the ferry leaves at noon"), written("a kettle boils over"), disc("red")]
    grid = reader(reader.prepare(items, "document"))
    query = text(text.prepare(["ferry noon"], "query")).tokens[0]
    score = [float((query @ grid.tokens[i, grid.mask[i]].T).max(1).values.sum()) for i in range(3)]
    assert score[0] > max(score[1:]) + 0.3
    place = int((query[1] @ grid.tokens[0, grid.mask[0]].T).argmax())
    assert grid.boxes is not None
    x0, y0, x1, y1 = grid.boxes[0, place].tolist()  # of "ferry", the second word
    assert place > SEEN and 0.02 < x0 < x1 < 0.35 and 0.1 < y0 < y1 < 0.9


@torch.inference_mode()
def test_words_are_those_of_the_page_reader(reader: PictureReader, fixtures: Path) -> None:
    page = next(pdf.pages(fixtures / "kestrel-manual.pdf")).image
    printed = reader(reader.prepare([page], "document")).tokens[0, SEEN:]
    alone = reader.page(reader.page.prepare([page], "document")).tokens[0]
    assert len(printed) > 0.6 * len(alone)  # numbers of one digit and the like are left out
    near = (printed @ alone.T).max(1).values
    assert float((near > 0.9).float().mean()) > 0.8


@torch.inference_mode()
def test_cells_of_a_query_count_less(reader: PictureReader) -> None:
    grid = reader(reader.prepare([disc("red")], "query"))
    lengths = grid.tokens[0].norm(dim=1)
    assert float(lengths[0]) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(lengths[1:], torch.full((SEEN - 1,), QUERY_CELL))


def test_a_file_that_is_no_picture_is_named(reader: PictureReader, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    with pytest.raises(MediaError, match=r"broken\.png"):
        reader.prepare([disc("red"), broken], "document")
    with pytest.raises(TypeError, match="PIL image or a path, not int"):
        reader.prepare([7], "document")


def test_the_tower_learns() -> None:
    """Gradients reach every part but the principal components' use of the net."""
    torch.manual_seed(0)
    tower = PictureTower(drop=0.0)
    features, likely = torch.randn(2, GRID * GRID, REDUCED), torch.rand(2, 1000)
    seen = tower(features, likely)
    assert seen.tokens.shape == (2, SEEN, DIM) and seen.pooled.shape == (2, DIM)
    (seen.tokens[..., 0].sum() + seen.pooled[:, 0].sum()).backward()
    without = [n for n, p in tower.named_parameters() if p.grad is None or not p.grad.any()]
    assert [n for n in without if not n.startswith("reduce.")] == []


def test_a_collection_reads_pictures_with_it(shipped: LateInteractionModel) -> None:
    of = CollectionModel(shipped, "")
    assert of.modality("image") == "image" and of.modality("pdf") == "page"
    rows = of.encode_picture(disc("red"))
    assert len(rows.values) == SEEN
    pages_only = LateInteractionModel({"page": shipped.encoder("page")})
    assert CollectionModel(pages_only, "").modality("image") == "page"


@torch.inference_mode()
def test_saved_with_its_words(reader: PictureReader, tmp_path: Path) -> None:
    reader.save(tmp_path)
    again = PictureReader.load(tmp_path)
    assert isinstance(again.page, PageReader)
    items = [written("gull"), disc("red")]
    one, two = (e(e.prepare(items, "document")).tokens for e in (reader, again))
    torch.testing.assert_close(one, two)
