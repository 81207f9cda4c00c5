"""scripts/picture_views.py: what training shows of a drawing is what a user's file would show, varied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from modalities.media import open_image, pixels
from modalities.picture_net import SIDE


@pytest.fixture
def views(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    import picture_views

    return picture_views


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One drawing, a red disc in the left half of a clear sheet."""
    folder = tmp_path / "pictures" / "drawn"
    folder.mkdir(parents=True)
    image = Image.new("RGBA", (160, 120), (0, 0, 0, 0))
    ImageDraw.Draw(image).ellipse((10, 20, 75, 100), fill=(220, 20, 20, 255))
    image.save(folder / "disc.png")
    return tmp_path


@pytest.fixture
def table(views: Any) -> list[Any]:
    return [views.Picture("disc", "noto", "disc.png", "disc", "symbols")]


def centre(image: Tensor) -> float:
    """Where the disc is, 0 at the left and 1 at the right: what is not as the paper in the corner."""
    ink = (image - image[:, :1, :1]).abs().sum((0, 1))
    return float((ink * torch.linspace(0, 1, SIDE)).sum() / ink.sum())


def test_a_drawing_on_white_is_what_the_package_sees(views, data, table) -> None:
    kept = views.pixels(data, table)
    shown = views.on_white(kept)[0]
    path = data / "pictures" / "drawn" / "disc.png"
    seen = torch.from_numpy(pixels(open_image(path), (SIDE, SIDE))).float()
    assert (shown - seen).abs().mean() < 3
    assert torch.equal(views.pixels(data, table), kept)  # from the file


def test_pixels_of_other_pictures_are_refused(views, data, table) -> None:
    views.pixels(data, table)
    with pytest.raises(ValueError, match="has 1 pictures, not 2: delete it"):
        views.pixels(data, table * 2)


def test_no_two_looks_are_the_same_and_mirrored_ones_are_turned_over(views, data, table) -> None:
    kept = views.pixels(data, table).expand(16, -1, -1, -1)
    turned = torch.arange(16) % 2 == 1
    torch.manual_seed(0)
    looks = views.varied(kept, turned, torch.zeros(16, dtype=torch.bool))
    assert looks.shape == (16, 3, SIDE, SIDE) and looks.min() >= 0 and looks.max() <= 255
    assert len({look.mean().item() for look in looks}) == 16
    assert [centre(look) > 0.5 for look in looks] == turned.tolist()


def test_paper_under_an_icon_stays_light_or_the_icon_is_inverted(views, data, table) -> None:
    kept = views.pixels(data, table).expand(64, -1, -1, -1).clone()
    kept[:, :3] = 0  # black on a clear sheet
    torch.manual_seed(0)
    looks = views.varied(kept, torch.zeros(64, dtype=torch.bool), torch.ones(64, dtype=torch.bool))
    dark = (looks.mean((1, 2, 3)) < 100).sum()  # the disc is a sixth of the sheet
    assert 0 < dark < 64 * 0.35
