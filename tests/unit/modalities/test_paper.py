from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from modalities.paper import ink_of, printed, skew_of, turned


def grey(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


def page(lines: int = 15, size: tuple[int, int] = (827, 700)) -> Image.Image:
    """Lines of print at 100 dpi, black on white."""
    font = ImageFont.load_default(15)
    image = Image.new("L", size, "white")
    draw = ImageDraw.Draw(image)
    for i in range(lines):
        draw.text((60, 50 + i * 24), f"line {i} says what the gauge has counted today", 0, font)
    return image


def test_ink_is_dark_print_on_light_paper_whatever_came() -> None:
    paper = torch.full((10, 10), 250, dtype=torch.uint8)
    paper[4, 4] = 5
    for page in (paper, 255 - paper):
        ink = ink_of(page)
        assert float(ink.median()) < 0.1 and float(ink[4, 4]) > 0.9
        assert float(ink.min()) >= 0 and float(ink.max()) <= 1


def test_faint_print_on_tinted_paper_comes_out_firm() -> None:
    clean = torch.from_numpy(np.array(page()))
    assert torch.equal(ink_of(clean), 1 - clean.float() / 255)  # black on white stays as it is
    faint = (190 - (255 - clean.float()) * 0.3).round().to(torch.uint8)
    ink = ink_of(faint)
    assert float(ink.median()) == 0 and float(ink[clean < 60].mean()) > 0.5
    assert ink_of(torch.zeros(0, 7, dtype=torch.uint8)).shape == (0, 7)


@pytest.mark.parametrize("angle", [-2.6, -0.7, 0.0, 0.5, 1.9])
def test_skew_is_found_and_taken_back(angle: float) -> None:
    ink = ink_of(grey(page().rotate(angle, Image.Resampling.BICUBIC, fillcolor=255)))
    assert skew_of(ink) == pytest.approx(angle, abs=0.15)
    assert skew_of(turned(ink, -angle)) == 0
    assert (turned(ink, -angle) - ink_of(grey(page())))[100:-100, 100:-100].abs().mean() < 0.04


def test_what_has_no_lines_is_not_turned() -> None:
    noise = torch.rand(300, 300, generator=torch.Generator().manual_seed(0))
    assert skew_of(noise) == 0 and skew_of(torch.zeros(300, 300)) == 0
    assert skew_of(torch.ones(20, 3000)) == 0


def test_printed_leaves_white_bands_out() -> None:
    ink = torch.zeros(203, 300)
    ink[100:104, 61:240] = 1
    ink[190, 150] = 0.9
    kept, left, part = printed(ink, (8, 2))
    assert kept.tolist() == [*range(10, 15), *range(21, 26)]
    assert left == 44 and part.shape == (80, 255 - 44)
    assert torch.equal(part[16:24, 16:], ink[96:104, 60:255])
    assert part[40:].sum() == pytest.approx(0.9)
    full, _, whole = printed(torch.ones(16, 10), (8, 2))
    assert full.tolist() == [0, 1] and torch.equal(whole, torch.ones(16, 10))
    none, _, nothing = printed(torch.zeros(16, 10), (8, 2))
    assert len(none) == 0 and nothing.numel() == 0
