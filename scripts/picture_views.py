"""What the frozen net sees of drawn pictures, kept on the disk: once as they are, and changed.

View 0 is a picture over white, as a user's file would come. Others lay it, smaller and mirrored
where it may be, over some other colour. Features lie in DATA/pictures/drawn as one file a view
and 1,000 pictures, so that what was cut off goes on; fp16.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
from picture_data import Picture
from PIL import Image, ImageOps
from safetensors.torch import load_file, save_file
from torch import Tensor

from modalities.media import pixels, to_rgb
from modalities.picture_net import SIDE, LiteNet

PART = 1000  # pictures of a file of features
ICONS = ("mdi", "lucide")


def view(picture: Picture, image: Image.Image, number: int) -> Image.Image:
    """View `number` of a picture (RGBA) as RGB; always the same for the same number."""
    if number == 0:
        return to_rgb(image)
    rng = random.Random(f"{picture.key} {number}")
    if picture.turns and rng.random() < 0.5:
        image = ImageOps.mirror(image)
    ground = tuple(rng.randint(0, 255) if rng.random() < 0.5 else 255 for _ in range(3))
    if picture.source in ICONS:  # one colour: it must stay to be seen
        ink = tuple(rng.randint(0, 120) for _ in range(3))
        ground = tuple(rng.randint(170, 255) for _ in range(3))
        if rng.random() < 0.3:
            ink, ground = ground, ink
        image = Image.composite(
            Image.new("RGBA", image.size, (*ink, 255)),
            Image.new("RGBA", image.size, (*ink, 0)),
            image.getchannel("A"),
        )
    side = round(max(image.size) / rng.uniform(0.55, 1.0))
    canvas = Image.new("RGBA", (side, side), (*ground, 255))
    place = tuple(rng.randint(0, side - length) for length in image.size)
    canvas.alpha_composite(image, place)
    return canvas.convert("RGB")


def features(folder: Path, pictures: list[Picture], net: LiteNet, number: int) -> Tensor:
    """(pictures, cells, channels) fp16 of one view; computes what is not there yet.

    The parts are mapped from the disk and put together in memory."""
    parts = []
    for start in range(0, len(pictures), PART):
        path = folder / f"view{number}-{start:05d}.safetensors"
        if not path.exists():
            rows = []
            for picture in pictures[start : start + PART]:
                image = Image.open(folder / picture.file).convert("RGBA")
                flat = pixels(view(picture, image, number), (SIDE, SIDE))
                with torch.inference_mode():
                    rows.append(net(torch.from_numpy(flat)[None])[0].half())
            part = path.with_suffix(".part")
            save_file({"features": torch.stack(rows).clone()}, str(part))
            part.rename(path)
            print(path.name, flush=True)
        parts.append(load_file(str(path))["features"])
    return torch.cat(parts)


def sheet(folder: Path, pictures: list[Picture], number: int, columns: int = 16) -> Image.Image:
    """A contact sheet of views, to look at."""
    side = 96
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * side, rows * side), "white")
    for i, picture in enumerate(pictures):
        image = Image.open(folder / picture.file).convert("RGBA")
        small = view(picture, image, number)
        small.thumbnail((side - 4, side - 4))
        out.paste(small, (i % columns * side, i // columns * side))
    return out
