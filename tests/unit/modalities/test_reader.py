from __future__ import annotations

import math

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lateint.model import LateInteractionModel
from modalities import reader, words
from modalities.page import PageReader, _grey
from modalities.paper import ink_of
from modalities.reader import (
    CELL,
    MAYBE,
    GlyphNet,
    Reading,
    join,
    line_numbers,
    merge,
    reading_order,
)

SENTENCES = [
    "The rain gauge counts each tip of the bucket",
    "and the logger writes a line every ten minutes.",
    "Replace the battery before the first frost,",
    "because cold cells lose half of their charge",
    "and the clock of station 4711 goes wrong.",
]


def printed(
    lines: list[str] = SENTENCES, *, size: tuple[int, int] = (827, 400), points: float = 11
) -> Image.Image:
    """Lines of print at 100 dpi, black on white."""
    font = ImageFont.load_default(points * 100 / 72)
    page = Image.new("L", size, "white")
    draw = ImageDraw.Draw(page)
    for i, line in enumerate(lines):
        draw.text((60, 50 + i * 2 * points), line, fill="black", font=font)
    return page


@pytest.fixture(scope="module")
def net(shipped: LateInteractionModel) -> GlyphNet:
    reader = shipped.encoder("page").reader
    assert isinstance(reader, GlyphNet)
    return reader


def test_it_reads_what_is_printed_and_where(net: GlyphNet) -> None:
    reading = net.read(ink_of(_grey(printed(points=12))))
    true = [word for line in SENTENCES for word, _, _ in words.split(line)]
    best = (words.vectors(true) @ reading.vectors.T).max(1).values
    assert (best > 0.8).float().mean() > 0.75, [
        (word, round(float(cosine), 2)) for word, cosine in zip(true, best, strict=True)
    ]
    assert abs(len(reading.vectors) - len(true)) <= 0.15 * len(true)
    assert torch.allclose(reading.vectors.norm(dim=1), torch.ones(len(reading.vectors)), atol=1e-5)
    assert reading.boxes.shape == (len(reading.vectors), 4)
    assert ((reading.certainty > 0) & (reading.certainty <= 1.001)).all()
    # words come line by line, as they are read
    once = [word for word in true if true.count(word) == 1 and len(word) > 3]
    places = (words.vectors(once) @ reading.vectors.T).argmax(1)
    assert (places[1:] > places[:-1]).float().mean() > 0.85
    gauge = reading.boxes[int((words.vectors(["gauge"]) @ reading.vectors.T).argmax())]
    font = ImageFont.load_default(12 * 100 / 72)
    left = 60 + font.getlength("The rain ")
    lies = torch.tensor([left / 827, 50 / 400, (left + font.getlength("gauge")) / 827, 75 / 400])
    assert torch.allclose(gauge, lies, atol=0.04)


def test_light_print_on_dark_is_read_as_well(net: GlyphNet) -> None:
    page = _grey(printed())
    straight, inverted = net.read(ink_of(page)), net.read(ink_of(255 - page))
    assert torch.allclose(straight.vectors, inverted.vectors, atol=1e-4)


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_a_blank_page_has_no_words(net: GlyphNet, shade: int) -> None:
    for size in ((400, 300), (1, 1), (3, 700)):
        reading = net.read(ink_of(torch.full(size, shade, dtype=torch.uint8)))
        assert reading.vectors.shape == (0, words.WIDTH) and reading.boxes.shape == (0, 4)


def test_a_picture_without_print_has_few_words(net: GlyphNet) -> None:
    across = torch.linspace(0, 255, 600).expand(500, 600)
    assert len(net.read(ink_of(across.to(torch.uint8))).vectors) <= 5


def test_reading_does_not_depend_on_white_margins(net: GlyphNet) -> None:
    page = _grey(printed(SENTENCES[:2], size=(700, 160)))
    wide = torch.full((480, 1000), 255, dtype=torch.uint8)
    wide[160:320, 160:860] = page  # whole cells further down and to the right
    one, other = net.read(ink_of(page)), net.read(ink_of(wide))
    assert len(one.vectors) == len(other.vectors) > 10
    assert (one.vectors * other.vectors).sum(1).min() > 0.99
    moved = (one.boxes * torch.tensor([700, 160, 700, 160])) + 160
    assert torch.allclose(moved, other.boxes * torch.tensor([1000, 480, 1000, 480]), atol=2)


def test_the_lattice_has_a_cell_for_every_pixel() -> None:
    net = GlyphNet().eval()
    for height, width in ((64, 40), (65, 41), (1, 1)):
        features, maps, early = net(torch.rand(2, 1, height, width))
        rows, columns = -(-height // CELL[0]), -(-width // CELL[1])
        assert features.shape[2:] == (rows, columns) and maps.shape == (2, 2, rows, columns)
        assert early.shape == (2, 1, rows, columns)
    here, before, after = net.characters(torch.zeros(3, features.shape[1]))
    assert here.shape == (3, words.CLASSES) and before.shape == after.shape
    assert after.shape == (3, words.NEIGHBOURS)


def test_what_is_quickest_reads_the_same_words(
    net: GlyphNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    ink = ink_of(_grey(printed(SENTENCES * 3, size=(827, 700))))
    readings = []
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(reader, "quick", lambda device, dtype=dtype: dtype)
        readings.append(net.read(ink))
    one, two = readings
    assert one.vectors.dtype == two.vectors.dtype == torch.float32
    assert abs(len(one.boxes) - len(two.boxes)) <= 1
    assert ((one.vectors @ two.vectors.T).amax(1) > 0.95).float().mean() > 0.97


def test_rows_without_print_are_passed_over_and_the_others_are_as_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "quick", lambda _: torch.float32)
    torch.manual_seed(0)
    net = GlyphNet().eval()
    torch.nn.init.normal_(net.early.weight, std=0.3)
    for height, width in ((203, 61), (96, 40)):
        ink = torch.rand(height, width)
        with torch.inference_mode():
            features, maps, early = net(ink[None, None])
            seen = torch.sigmoid(early[0, 0]).amax(1)
            net.early.bias += torch.logit(torch.tensor(MAYBE)) - torch.logit(seen.mean())
            rows, some, part = net.lines(ink)  # of about half of the rows
            assert 0 < len(rows) < max(2, len(seen))
            assert torch.allclose(some, features[0][:, rows], atol=1e-5)
            assert torch.allclose(part, maps[0][:, rows], atol=1e-5)
            net.early.bias.fill_(-50)
            assert len(net.lines(ink)[0]) == 0 and len(net.read(ink).boxes) == 0


def test_a_page_scanned_askew_is_read_and_its_boxes_lie_on_it(net: GlyphNet) -> None:
    lines = SENTENCES * 3
    page = printed(lines, size=(827, 700))
    straight = net.read(ink_of(_grey(page)))
    askew = net.read(ink_of(_grey(page.rotate(1.8, Image.Resampling.BICUBIC, fillcolor=255))))
    assert straight.skew == 0 and askew.skew == pytest.approx(1.8, abs=0.15)
    assert torch.equal(straight.on_page(700, 827), straight.boxes)
    assert abs(len(askew.boxes) - len(straight.boxes)) <= 0.1 * len(straight.boxes)
    assert ((straight.vectors @ askew.vectors.T).amax(1) > 0.8).float().mean() > 0.85
    # the first word has moved down by its distance from the middle
    size = torch.tensor([827, 700, 827, 700])
    first = int((straight.boxes[:9, 0]).argmin())
    there = int((askew.vectors[:12] @ straight.vectors[first]).argmax())
    was, now = straight.boxes[first] * size, askew.on_page(700, 827)[there] * size
    lift = (float(was[0] + was[2]) / 2 - 827 / 2) * math.sin(math.radians(1.8))
    assert float(was[1] - now[1]) == pytest.approx(lift, abs=4) and lift < -8


def lattice(rows: int = 6, columns: int = 40) -> Tensor:
    return torch.zeros(rows, columns)


def test_merge_leaves_clear_centres_alone() -> None:
    p = lattice()
    p[2, 5] = p[2, 15] = 0.98
    p[4, 5] = 0.97  # another line, two rows further down
    assert torch.allclose(merge(p)[p > 0.5], p[p > 0.5], atol=0.1)
    assert ((merge(p) > 0.5) == (p > 0.5)).all()


def test_merge_puts_a_line_between_two_rows_into_one() -> None:
    p = lattice()
    p[2, 5:40:6] = 0.5
    p[3, 5:40:6] = 0.45
    merged = merge(p)
    assert (merged[2, 5:40:6] > 0.8).all() and (merged[3, 5:40:6] < 0.1).all()
    assert merged.sum() == pytest.approx(float(p.sum()), rel=1e-4)  # nothing is lost
    p = p.flip(0)
    assert (merge(p)[3, 5:40:6] > 0.8).all()  # the stronger row, above or below


def test_merge_keeps_two_lines_that_lie_close_together() -> None:
    p = lattice()
    p[2, 5:40:6] = 0.95
    p[3, 8:40:6] = 0.95
    merged = merge(p)
    assert (merged[2, 5:40:6] > 0.8).all() and (merged[3, 8:40:6] > 0.8).all()


def test_merge_puts_a_centre_between_two_columns_into_one() -> None:
    p = lattice()
    p[2, 10], p[2, 11] = 0.5, 0.45
    merged = merge(p)
    assert merged[2, 10] > 0.85 and merged[2, 11] < 0.2


def box(x: float, y: float, width: float = 0.08, height: float = 0.02) -> list[float]:
    return [x, y, x + width, y + height]


def test_line_numbers_count_from_the_top() -> None:
    boxes = torch.tensor([box(0.5, 0.3), box(0.1, 0.1), box(0.1, 0.302), box(0.3, 0.098)])
    assert line_numbers(boxes).tolist() == [1, 0, 1, 0]
    assert line_numbers(torch.tensor([box(0.1, 0.1)])).tolist() == [0]


def test_a_large_word_does_not_swallow_the_small_lines_below() -> None:
    heading = box(0.1, 0.1, 0.5, 0.05)
    small = [box(0.1, 0.16 + 0.02 * i, height=0.015) for i in range(3)]
    assert line_numbers(torch.tensor([heading, *small])).tolist() == [0, 1, 2, 3]


def test_a_slanted_line_is_one_line() -> None:
    boxes = torch.tensor([box(0.1 * i, 0.2 + 0.002 * i) for i in range(8)])
    assert line_numbers(boxes).tolist() == [0] * 8


def test_reading_order_is_line_by_line_from_the_left() -> None:
    boxes = torch.tensor(
        [box(0.7, 0.5), box(0.1, 0.2), box(0.4, 0.201), box(0.0, 0.499), box(0.9, 0.1)]
    )
    assert reading_order(boxes).tolist() == [4, 1, 2, 3, 0]
    assert reading_order(torch.zeros(0, 4)).tolist() == []
    shuffled = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    again = boxes[shuffled][reading_order(boxes[shuffled])]
    assert torch.equal(again, boxes[reading_order(boxes)])


def reading(*rows: tuple[float, float, float, float, float]) -> Reading:
    """Words from x0, y0, x1, y1 and certainty; each has a vector of its own."""
    table = torch.tensor(rows).view(-1, 5)
    vectors = torch.nn.functional.one_hot(torch.arange(len(rows)), words.WIDTH).float()
    return Reading(vectors, table[:, :4], table[:, 4])


def test_two_sizes_are_joined_without_holes_or_doubles() -> None:
    small = (0.1, 0.10, 0.2, 0.12, 0.9)  # at full size alone
    title = (0.1, 0.30, 0.5, 0.40, 0.6)  # at half size
    part = (0.2, 0.33, 0.24, 0.35, 0.9)  # a piece of one of the title's letters, taken for a word
    twice = (0.1, 0.60, 0.5, 0.66, 0.9)  # large, seen by both: half size has it
    seen = (0.1, 0.80, 0.5, 0.86, 0.9)  # large, seen at full size alone: it stays
    blurred = (0.1, 0.10, 0.2, 0.12, 0.5)  # small print at half size: never
    joined = join(
        reading(small, part, twice, seen), reading(title, (*twice[:4], 0.7), blurred), 0.05
    )
    assert joined.boxes[:, 1].tolist() == pytest.approx([0.10, 0.30, 0.60, 0.80])
    assert joined.certainty.tolist() == pytest.approx([0.9, 0.6, 0.7, 0.9])
    line = (0.1, 0.29, 0.45, 0.33, 0.9), (0.1, 0.35, 0.45, 0.39, 0.9)
    sure = join(reading(*line), reading(title), 0.05)  # two lines of small print, blurred into one
    assert sure.boxes[:, 1].tolist() == pytest.approx([0.29, 0.35])


def test_white_bands_and_read_print_are_passed_over_without_a_loss(
    net: GlyphNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = printed(size=(827, 700))
    page.paste(printed(SENTENCES[:2], size=(827, 300), points=26), (0, 400))
    ink = ink_of(_grey(page))
    quick = net.read(ink)
    monkeypatch.setattr(reader, "unread", lambda ink, reading, large: ink)
    whole = (torch.arange(88), 0, torch.nn.functional.pad(ink, (0, 0, 0, 4)))
    once = reader.printed
    monkeypatch.setattr(
        reader, "printed", lambda x, cell: whole if x.shape == ink.shape else once(x, cell)
    )
    slow = net.read(ink)
    assert abs(len(quick.boxes) - len(slow.boxes)) <= 2 < len(slow.boxes)
    alike = slow.vectors @ quick.vectors.T
    near = (slow.boxes[:, None] - quick.boxes[None]).abs().amax(2) < 0.005
    assert ((alike > 0.97) & near).any(1).float().mean() > 0.95


def test_words_that_were_surely_read_are_not_looked_at_again() -> None:
    ink = torch.ones(200, 100)
    words_ = reading(
        (0.1, 0.1, 0.5, 0.15, 0.9),  # sure and small: gone, with what stands beside it
        (0.1, 0.3, 0.5, 0.35, 0.3),  # not sure
        (0.1, 0.5, 0.9, 0.7, 0.9),  # large
    )
    left = reader.unread(ink, words_, 0.1)
    assert left[18:32, 0:60].sum() == 0 and left[18:32, 61:].min() == 1
    assert left[:17].min() == 1 and left[33:].min() == 1
    assert torch.equal(reader.unread(ink, reading(), 0.1), ink)


def test_large_print_is_read() -> None:
    net = PageReader.shipped().reader
    true = [word for line in SENTENCES for word, _, _ in words.split(line)]
    found = net.read(ink_of(_grey(printed(size=(1600, 800), points=22))))
    best = (words.vectors(true) @ found.vectors.T).max(1).values
    assert (best > 0.8).float().mean() > 0.8
    assert abs(len(found.vectors) - len(true)) <= 0.15 * len(true)


def test_folded_norms_change_nothing() -> None:
    net = PageReader.shipped().reader
    ink = torch.rand(1, 1, 64, 120, generator=torch.Generator().manual_seed(0))
    with torch.enable_grad():
        plain = net(ink)
    with torch.no_grad():
        folded = net(ink)
    for one, two in zip(plain, folded, strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_weights_from_before_cyrillic_and_greek_load_as_they_are() -> None:
    latin = len(words.LATIN)
    size = 3 * latin + 5  # a character, and with the edges of words what stands before and after
    net, older = GlyphNet(), GlyphNet().state_dict()
    older["classes.weight"] = torch.randn(size, older["classes.weight"].shape[1])
    older["classes.bias"] = torch.randn(size)
    net.load_state_dict(older)
    features = torch.randn(4, 112)
    with torch.no_grad():
        out = torch.relu(net.hidden(features)) @ older["classes.weight"].T + older["classes.bias"]
        parts = net.characters(features)
    for old, new in zip(out.split([latin + 1, latin + 2, latin + 2], 1), parts, strict=True):
        share = new.softmax(1)
        assert torch.allclose(old.softmax(1)[:, :latin], share[:, :latin], atol=1e-5)
        assert torch.allclose(old.softmax(1)[:, latin:], share[:, len(words.LETTERS) :], atol=1e-5)
    with pytest.raises(RuntimeError, match="classes"):
        net.load_state_dict(older | {"classes.bias": torch.zeros(7)})
