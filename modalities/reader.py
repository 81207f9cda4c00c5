"""The glyph reader: a page's pixels to one vector a word, with its box. No text comes out.

A small convolutional net looks at a grey page at 100 dpi on a lattice of cells 8 pixels high and
2 wide. For each cell it says whether a character's centre lies there, which characters may stand
there, before and after, and how tall they are. Nothing is decoded: the probabilities of a word's
characters are summed into the word's vector (`modalities.words.sketch`), so doubt stays doubt.
Trained on pages whose text layer says which character stands where (scripts/train_mini.py).

This module knows pixels and characters; what surrounds a word, and retrieval, are for others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modalities import words
from modalities.paper import printed, skew_of, turned

CELL = (8, 2)  # pixels of a cell: rows, columns
DPI = 100
CHANNELS = (16, 16, 32, 48, 112)
DILATIONS = (1, 2, 4, 8)  # along the line, in cells: the last sees 30 pixels to either side
HIDDEN = 192
LAST = torch.channels_last


@dataclass
class Reading:
    """What was read on one page, in reading order (top to bottom, left to right in a line).

    vectors: (N, WIDTH) unit rows, one a word; boxes: (N, 4) x0, y0, x1, y1 in fractions of the
    page, which was straightened by `skew` degrees for it; certainty: (N,) mean probability of the
    word's characters, 0..1.
    """

    vectors: Tensor
    boxes: Tensor
    certainty: Tensor
    skew: float = 0.0

    def on_page(self, height: int, width: int) -> Tensor:
        """The boxes where the words stand on the page as it came, of so many pixels: (N, 4)."""
        if not self.skew:
            return self.boxes
        turn = math.radians(self.skew)
        size = self.boxes.new_tensor([width, height])
        first, last = self.boxes[:, :2] * size, self.boxes[:, 2:] * size
        middle, half = (first + last) / 2 - size / 2, (last - first) / 2
        cosine, sine = math.cos(turn), math.sin(turn)
        back = middle @ self.boxes.new_tensor([[cosine, -sine], [sine, cosine]]) + size / 2
        return (torch.cat([back - half, back + half], 1) / torch.cat([size, size])).clamp(0, 1)

    def at(self, chosen: Tensor) -> Reading:
        """The words at these indices, or under this mask."""
        some = (self.vectors[chosen], self.boxes[chosen], self.certainty[chosen])
        return Reading(*some, self.skew)

    def ordered(self) -> Reading:
        """In reading order."""
        return self.at(reading_order(self.boxes))


class _Conv(nn.Sequential):
    """Convolution, batch norm, ReLU. Without gradients in eval mode they are one convolution in
    channels-last layout, which is almost twice as fast on a CPU; folding the norm into the weights
    takes microseconds, so nothing is kept that could go stale."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        size: tuple[int, int],
        stride: tuple[int, int],
        dilation: int = 1,
    ) -> None:
        padding = (size[0] // 2, size[1] // 2 * dilation)
        self.how = (stride, padding, (1, dilation))
        super().__init__(
            nn.Conv2d(inputs, outputs, size, *self.how, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, W)
        if self.training or torch.is_grad_enabled():
            return cast(Tensor, super().forward(x))
        return self.folded(x, *self.how)

    def folded(
        self,
        x: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        conv, norm = cast(nn.Conv2d, self[0]), cast(nn.BatchNorm2d, self[1])
        mean, spread = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        scale = norm.weight * torch.rsqrt(spread + norm.eps)
        weight = (conv.weight * scale[:, None, None, None]).to(x.dtype)
        weight, x = weight.contiguous(memory_format=LAST), x.contiguous(memory_format=LAST)
        bias = (norm.bias - mean * scale).to(x.dtype)
        return F.conv2d(x, weight, bias, stride, padding, dilation).relu_()


@cache
def quick(device: torch.device) -> torch.dtype:
    """What convolutions are computed in: bfloat16 on a processor that multiplies it (AVX-512 BF16, AMX:
    two thirds of the time of a page, and 99.8 % of its words as in float32), else float32."""
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    native = known.get("avx512_bf16", False) or known.get("amx_bf16", False)
    return torch.bfloat16 if device.type == "cpu" and native else torch.float32


class GlyphNet(nn.Module):
    """Grey pixels (ink = 1) to a feature lattice and the maps of centres and heights.

    0.25 million parameters; 8 GMAC for an A4 page. Early stride and few channels, because on a
    CPU the high-resolution layers cost most.
    """

    def __init__(self) -> None:
        super().__init__()
        c = CHANNELS
        self.stem = nn.Sequential(
            _Conv(1, c[0], (5, 5), (2, 2)),
            _Conv(c[0], c[1], (3, 3), (1, 1)),
            _Conv(c[1], c[2], (3, 3), (2, 1)),
            _Conv(c[2], c[3], (3, 3), (1, 1)),
            _Conv(c[3], c[4], (3, 3), (2, 1)),
        )
        self.line = nn.ModuleList(_Conv(c[4], c[4], (1, 3), (1, 1), d) for d in DILATIONS)
        # whether a line of print runs along these cells: told before the costly half of the net
        self.early = nn.Conv2d(c[3], 1, (3, 5), (2, 1), (1, 2))
        self.centre = nn.Conv2d(c[4], 2, 1)  # logit of a character's centre, log of its height
        self.hidden = nn.Linear(c[4], HIDDEN)
        self.classes = nn.Linear(HIDDEN, words.CLASSES + 2 * words.NEIGHBOURS)

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Weights from before Cyrillic and Greek, and from before `early`, load as they are: such
        letters are never seen, and print is looked for everywhere."""
        widened(state, prefix + "classes.")
        if prefix + "centre.bias" in state and prefix + "early.bias" not in state:
            state[prefix + "early.weight"] = torch.zeros_like(self.early.weight)
            state[prefix + "early.bias"] = self.early.weight.new_full((1,), 10.0)
        super()._load_from_state_dict(state, prefix, *rest)

    def characters(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of chosen cells (N, C) -> logits of the character here, before and after."""
        out = self.classes(torch.relu(self.hidden(features)))
        here, before, after = out.split([words.CLASSES, words.NEIGHBOURS, words.NEIGHBOURS], dim=1)
        return here, before, after

    def forward(self, ink: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1, H, W) ink in 0..1 -> features (B, C, h, w), maps (B, 2, h, w) of centre logit and
        log height in cells, and the early logit (B, 1, h, w) of a line; h, w = H / 8, W / 2."""
        low = self.stem[:-1](ink)
        x = self.stem[-1](low)
        for layer in self.line:
            x = x + layer(x)
        return x, self.centre(x), self.early(low.detach())

    def lines(self, ink: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of one page (H, W): the rows of cells along which print may run, (R,), with their
        features (C, R, w) and maps (2, R, w): as `forward` has them, for a part of the cost, and
        computed in what is quickest (`quick`)."""
        low = self.stem[:-1](ink[None, None].to(quick(ink.device)))
        early = torch.sigmoid(self.early(low.to(ink.dtype))[0, 0])
        rows = torch.nonzero(early.amax(1) > MAYBE)[:, 0]
        if not len(rows):
            return rows, ink.new_zeros(CHANNELS[-1], 0, 0), ink.new_zeros(2, 0, 0)
        # the three rows that a strided convolution sees for each row of cells, and only those
        beside = (2 * rows[:, None] + torch.arange(3, device=rows.device)).flatten()
        low = F.pad(low, (0, 0, 1, 1)).index_select(2, beside)
        x = cast(_Conv, self.stem[-1]).folded(low, (3, 1), (0, 1), (1, 1))
        for layer in self.line:
            x = x + layer(x)
        features = x.to(ink.dtype)
        return rows, features[0], self.centre(features)[0]

    @torch.inference_mode()
    def read(self, ink: Tensor) -> Reading:
        """The words of one page. ink: (H, W) in 0..1, a page at about 100 dpi.

        A page that was scanned askew is straightened first: words run along rows of cells.
        The page is read twice: as it is, and what was not read then at half size, where the net
        sees whole letters of large print (titles, slides). Each size answers for its heights.
        """
        skew = skew_of(ink)
        if skew:
            ink = turned(ink, -skew)
        found = self._read_once(ink)
        if min(ink.shape) >= 2 * CELL[0]:
            half = F.avg_pool2d(ink[None, None], 2, ceil_mode=True)[0, 0]
            half = unread(half, found, LARGE / len(ink))
            found = join(found, self._read_once(half), LARGE / len(ink))
        return replace(found, skew=skew)

    def _read_once(self, ink: Tensor) -> Reading:
        kept, left, print_ = printed(ink, CELL)
        if not len(kept):
            return _nothing(ink)
        rows, features, maps = self.lines(print_)
        if not len(rows):
            return _nothing(ink)
        centres = maps.new_zeros(len(kept), maps.shape[2])
        centres[rows] = torch.sigmoid(maps[0])
        presence = merge(centres.float())
        row, column = torch.nonzero(presence > PRESENT, as_tuple=True)  # sorted by row, column
        if not len(row):
            return _nothing(ink)
        place = torch.zeros(len(presence), dtype=torch.long, device=ink.device)
        place[rows] = torch.arange(len(rows), device=ink.device)
        at = place[row]
        here, before, after = (
            logits.float().softmax(1) for logits in self.characters(features[:, at, column].T)
        )
        weight = presence[row, column].clamp(max=1)
        tall = torch.exp(maps[1, at, column].float()) * CELL[0]  # pixels
        word = _words(row, column, tall, before[:, words.BOUNDARY], after[:, words.BOUNDARY])
        count = int(word[-1]) + 1

        def total(values: Tensor) -> Tensor:
            return values.new_zeros(count, *values.shape[1:]).index_add_(0, word, values)

        book = words.codebook().to(ink.device)
        vectors = total(weight[:, None] * words.sketch(book, before, here, after))
        sums = total(torch.stack([weight, weight * here.max(1).values, weight * tall], 1))
        mass, tallness = sums[:, 0], sums[:, 2] / sums[:, 0]
        row, column = kept[row], column + left // CELL[1]
        boxes = _boxes(row, column, word, tallness, ink.shape)
        letters = total(torch.ones_like(weight))
        chosen = torch.nonzero(mass / letters > SURE)[:, 0]
        unit = F.normalize(vectors[chosen], dim=1)
        return Reading(unit, boxes[chosen], (sums[:, 1] / mass)[chosen]).ordered()


def widened(state: dict[str, Any], prefix: str) -> None:
    """Puts rows for the letters that came after LATIN into a layer of character, before and after
    (`prefix` + weight and bias) that lacks them, so that they have no probability."""
    latin, later = len(words.LATIN), len(words.LETTERS) - len(words.LATIN)
    sizes = (latin + 1, latin + 2, latin + 2)
    weight, bias = state.get(prefix + "weight"), state.get(prefix + "bias")
    if weight is None or bias is None or {len(weight), len(bias)} != {sum(sizes)}:
        return
    for name, stored, value in (("weight", weight, 0.0), ("bias", bias, UNSEEN)):
        fresh = stored.new_full((later, *stored.shape[1:]), value)
        parts = (torch.cat([p[:latin], fresh, p[latin:]]) for p in stored.split(sizes))
        state[prefix + name] = torch.cat([*parts])


UNSEEN = -20.0  # the logit of a letter that was not known in training
MAYBE = 0.05  # of a row's surest cell; rows below it hold no line; lower: more rows, slower
PRESENT = 0.25  # a cell with less than this is no character's centre; lower: more noise is read
SURE = 0.4  # mean presence of a word's characters below which it is background
CERTAIN = 0.6  # of a word that is not looked at again at half size; higher: slower
LARGE = 24.0  # pixels of a line's height from which print is read at half size
LINE_LOW, LINE_HIGH = 0.56, 0.44  # of a line's height: from its middle up to its top, and down


def _nothing(ink: Tensor) -> Reading:
    empty = torch.zeros(0, dtype=torch.float32, device=ink.device)
    return Reading(empty.view(0, words.WIDTH), empty.view(0, 4), empty)


def unread(ink: Tensor, reading: Reading, large: float) -> Tensor:
    """A page (H, W) without the words that were surely read, and less than `large` (a fraction of
    the page's height): white where they and the punctuation beside them stand."""
    small = reading.at((reading.certainty > CERTAIN) & (_tall(reading) < large)).boxes
    size = small.new_tensor([ink.shape[1], ink.shape[0], ink.shape[1], ink.shape[0]])
    x0, y0, x1, y1 = (small * size).unbind(1)
    beside, above = y1 - y0, 0.2 * (y1 - y0)
    edges = [x0 - beside, y0 - above, x1 + beside, y1 + above]
    left, top, right, bottom = (e.round().long().clamp(min=0) for e in edges)
    inside = ink.new_zeros(len(ink) + 1, ink.shape[1] + 1)
    for y, x, sign in ((top, left, 1), (bottom, right, 1), (top, right, -1), (bottom, left, -1)):
        place = (y.clamp(max=ink.shape[0]), x.clamp(max=ink.shape[1]))
        inside.index_put_(place, inside.new_full((len(y),), float(sign)), accumulate=True)
    return ink * (inside.cumsum(0).cumsum(1)[:-1, :-1] < 0.5)


def join(fine: Reading, coarse: Reading, large: float) -> Reading:
    """One reading of a page from two: as read at full size, and at half size for lines of `large`
    (a fraction of the page's height) and more.

    Where both claim a place the surer one has it; at full size nothing is sure of large print, yet
    what only it has seen stays, since the two do not agree to the pixel on what is large.
    """
    coarse = coarse.at(_tall(coarse) >= large)
    if not len(fine.boxes) or not len(coarse.boxes):
        return fine if len(fine.boxes) else coarse
    shared = _inside(fine.boxes, coarse.boxes) | _inside(coarse.boxes, fine.boxes).T  # (F, C)
    sure = fine.certainty - 0.5 * (_tall(fine) >= large)
    # a large word gives way only to words of half its width: a stray dot in it is not enough
    wide = (fine.boxes[:, 2] - fine.boxes[:, 0])[:, None]
    against = (wide * (shared & (sure[:, None] >= coarse.certainty[None]))).sum(0)
    stays = against <= 0.5 * (coarse.boxes[:, 2] - coarse.boxes[:, 0])
    coarse, fine = coarse.at(stays), fine.at(~shared[:, stays].any(1))
    vectors, boxes, certainty = map(torch.cat, zip(_fields(fine), _fields(coarse), strict=True))
    return Reading(vectors, boxes, certainty).ordered()


def _tall(reading: Reading) -> Tensor:
    return reading.boxes[:, 3] - reading.boxes[:, 1]


def _fields(reading: Reading) -> tuple[Tensor, Tensor, Tensor]:
    return reading.vectors, reading.boxes, reading.certainty


def _inside(a: Tensor, b: Tensor) -> Tensor:
    """Whether the middle of each box of a (A, 4) lies in each box of b (B, 4): (A, B) bool."""
    x, y = (a[:, 0] + a[:, 2]) / 2, (a[:, 1] + a[:, 3]) / 2
    across = (x[:, None] > b[None, :, 0]) & (x[:, None] < b[None, :, 2])
    return across & (y[:, None] > b[None, :, 1]) & (y[:, None] < b[None, :, 3])


def merge(presence: Tensor) -> Tensor:
    """Puts a centre that lies on the edge between cells into one of them. (h, w) -> (h, w)

    A line of text whose middle falls on the edge between two rows is seen half in each: unless
    both rows are strong of their own (two lines), the row that is stronger along the line takes
    both halves. The same along the line, between neighbouring columns.
    """
    p = presence
    near = F.max_pool1d(p[:, None], 25, 1, 12)[:, 0]
    along = F.avg_pool1d(p[:, None], 25, 1, 12)[:, 0]
    split = torch.minimum(near[:-1], near[1:]) < 0.75
    up = split & (along[:-1] >= along[1:])  # the upper row of the pair takes
    down = split & ~up
    zero = torch.zeros_like(p[:1])
    keep_upper, keep_lower = torch.cat([~down, zero == 0]), torch.cat([zero == 0, ~up])
    given = p * (keep_upper & keep_lower)
    p = given + torch.cat([p[1:] * up, zero]) + torch.cat([zero, p[:-1] * down])

    left = F.pad(p, (1, 0))[:, :-1]
    right = F.pad(p, (0, 1))[:, 1:]
    weak = p < 0.6
    lost = weak & ((left > p) | (right >= p)) & ((left + p < 1.4) & (right + p < 1.4))
    gift = p * lost
    to_left = gift * (left >= right)
    return p - gift + F.pad(to_left, (0, 1))[:, 1:] + F.pad(gift - to_left, (1, 0))[:, :-1]


def _words(row: Tensor, column: Tensor, tall: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Index of the word that each character belongs to; a word ends where its last character
    expects nothing after it and the next nothing before it, or at a wide gap."""
    gap = (column[1:] - column[:-1]) * CELL[1]
    ends = (row[1:] != row[:-1]) | (gap > 1.3 * tall[1:]) | ((after[:-1] + before[1:]) > 1)
    return F.pad(ends.long().cumsum(0), (1, 0))


def _boxes(row: Tensor, column: Tensor, word: Tensor, tall: Tensor, shape: torch.Size) -> Tensor:
    """(N, 4) boxes in fractions of the page from the cells of the words' characters."""
    count = len(tall)
    x = (column.float() + 0.5) * CELL[1]
    big = torch.full((count,), float("inf"), device=x.device)
    first = big.scatter_reduce(0, word, x, "amin")
    last = (-big).scatter_reduce(0, word, x, "amax")
    middle = big.scatter_reduce(0, word, (row.float() + 0.5) * CELL[0], "amin")
    height, width = shape
    box = torch.stack(
        [
            (first - 0.25 * tall) / width, (middle - LINE_LOW * tall) / height,
            (last + 0.25 * tall) / width, (middle + LINE_HIGH * tall) / height,
        ], 1,
    )  # fmt: skip
    return box.clamp(0, 1)


def reading_order(boxes: Tensor) -> Tensor:
    """Indices that put boxes (N, 4) in lines from top to bottom, and left to right in a line."""
    if not len(boxes):
        return torch.zeros(0, dtype=torch.long, device=boxes.device)
    lines = line_numbers(boxes)
    return torch.argsort(lines.double() * 4 + boxes[:, 0].double().clamp(0, 1), stable=True)


def line_numbers(boxes: Tensor) -> Tensor:
    """The line of each box (N, 4), counted from the top: boxes whose middles are nearer than
    half a line's height to the next one above are on its line."""
    middle = (boxes[:, 1] + boxes[:, 3]) / 2
    tall = boxes[:, 3] - boxes[:, 1]
    order = torch.argsort(middle, stable=True)
    step = middle[order][1:] - middle[order][:-1]
    fresh = step > 0.35 * torch.minimum(tall[order][1:], tall[order][:-1])
    line = torch.zeros(len(boxes), dtype=torch.long, device=boxes.device)
    line[order] = F.pad(fresh.long().cumsum(0), (1, 0))
    return line
