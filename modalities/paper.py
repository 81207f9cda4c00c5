"""From grey pixels to ink on straight paper: what is done to a page before it is read.

Paper becomes 0 and print near 1 whatever they were, a page that was scanned askew is turned, and
what carries no print is left out. This module knows ink and paper; letters are for
`modalities.reader`.
"""

from __future__ import annotations

import math
import statistics

import torch
from torch import Tensor
from torch.nn import functional as F


def skew_of(ink: Tensor) -> float:
    """By how many degrees (anticlockwise, at most MOST_SKEW) the lines of a page (H, W) rise; 0 for
    pages that are straight to a fifth of a degree, or have no lines to tell by.

    At the right angle the rows of a page go from empty to full at once: their steps are highest.
    """
    if min(ink.shape) < 100:
        return 0.0
    strips = F.avg_pool2d(ink[None, None], (1, STRIP))[0, 0]  # as high as the page
    y, x = torch.nonzero(strips > 0.1, as_tuple=True)
    if len(x) < 200:
        return 0.0
    weight, across = strips[y, x], (x + 0.5) * STRIP - ink.shape[1] / 2

    def sharp(angle: float) -> float:
        row = (y + across * math.tan(math.radians(angle))).round().long()
        filled = torch.bincount(row - row.min(), weight)
        smooth = filled[:-2] + 2 * filled[1:-1] + filled[2:]
        return float((smooth[2:] - smooth[:-2]).square().sum())

    straight = sharp(0.0)
    if straight > 1.1 * max(sharp(-0.4), sharp(0.4)):  # most pages: no need to search
        return 0.0
    tried = {angle: sharp(angle) for angle in _steps(0.0, MOST_SKEW, 0.4)}
    best = max(_steps(max(tried, key=tried.__getitem__), 0.3, 0.1), key=sharp)
    lines = sharp(best) > LINED * statistics.median(tried.values())
    return best if lines and abs(best) >= 0.2 and sharp(best) > CLEARLY * straight else 0.0


STRIP = 8  # pixels side by side that are taken together
MOST_SKEW = 3.2
LINED = 1.6  # sharper than most angles: what has no lines has no angle that stands out
CLEARLY = 1.15  # sharper than as it came, for a page to be turned; higher: fewer are


def _steps(middle: float, reach: float, step: float) -> list[float]:
    count = round(reach / step)
    return [round(middle + i * step, 3) for i in range(-count, count + 1)]


def turned(ink: Tensor, angle: float) -> Tensor:
    """A page (H, W) turned about its middle, anticlockwise by so many degrees; paper comes in."""
    height, width = ink.shape
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    matrix = ink.new_tensor(
        [[cosine, -sine * height / width, 0], [sine * width / height, cosine, 0]]
    )
    grid = F.affine_grid(matrix[None], [1, 1, height, width], align_corners=False)
    return F.grid_sample(ink[None, None], grid, align_corners=False)[0, 0]


def ink_of(grey: Tensor) -> Tensor:
    """uint8 grey pixels (H, W) -> ink in 0..1: paper is 0, print near 1, whatever they were.

    A dark page is inverted, tinted paper is taken off, and faint print made up to FAINTEST times
    stronger. A page of black on white stays as it is.
    """
    ink = 1 - grey.float() / 255
    if not ink.numel():
        return ink
    step = max(1, int((ink.numel() / 50_000) ** 0.5))
    some = ink[::step, ::step]
    paper = float(some.median())
    if paper > 0.5:
        ink, some, paper = 1 - ink, 1 - some, 1 - paper
    dark = some[some > paper + 0.15] - paper
    strength = float((dark * dark).sum() / dark.sum()) if len(dark) else FIRM
    gain = min(max(FIRM / strength, 1.0), FAINTEST)
    return ink if paper == 0 and gain == 1 else ((ink - paper) * gain).clamp(0, 1)


FIRM = 0.5  # mean ink of print, weighted by ink, that is left as it is
FAINTEST = 3.0


DARK = 0.25  # ink from which a pixel may belong to print
MARGIN = 2  # rows of cells kept above and below print: the net sees 14 pixels up and down


def printed(ink: Tensor, cell: tuple[int, int]) -> tuple[Tensor, int, Tensor]:
    """The part of a page (H, W) that carries ink, on a lattice of cells (rows, columns of pixels).

    Returns the rows of cells that were kept (R,), the first column of pixels, and the kept rows one
    below the other (R * rows of a cell, W'): white bands, margins above all, cost as much to read
    as print does, and no line of print reaches over one.
    """
    dark = ink > DARK
    columns = torch.nonzero(dark.any(0))[:, 0]
    count = -(-len(ink) // cell[0])
    filled = F.pad(dark.any(1), (0, count * cell[0] - len(ink))).view(count, cell[0]).any(1)
    near = F.max_pool1d(filled[None].float(), 2 * MARGIN + 1, 1, MARGIN)[0]
    kept = torch.nonzero(near > 0)[:, 0]
    if not len(columns):
        return kept, 0, ink[:0, :0]
    left = max(0, (int(columns[0]) - 16) // cell[1] * cell[1])
    part = F.pad(ink[:, left : int(columns[-1]) + 16], (0, 0, 0, count * cell[0] - len(ink)))
    if len(kept) < count:
        part = part.view(count, cell[0], -1)[kept].flatten(0, 1)
    return kept, left, part
