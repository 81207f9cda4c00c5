"""What the frozen net sees of drawn pictures, kept on the disk, and sheets of them to look at.

A picture is laid over white, as a user's file would come. Features lie in DATA/pictures/drawn, a
file for 1,000 pictures, so that what was cut off goes on; fp16.
"""

from __future__ import annotations

from pathlib import Path

import torch
from picture_data import Picture
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from modalities.media import open_image, pixels
from modalities.picture_net import SIDE, LiteNet

PART = 1000  # pictures of a file of features


@torch.inference_mode()
def features(folder: Path, pictures: list[Picture], net: LiteNet) -> Tensor:
    """(pictures, cells, channels) fp16; computes what is not there yet."""
    parts = []
    for start in range(0, len(pictures), PART):
        path = folder / f"view0-{start:05d}.safetensors"
        if not path.exists():
            rows = []
            for picture in pictures[start : start + PART]:
                flat = pixels(open_image(folder / picture.file), (SIDE, SIDE))
                rows.append(net(torch.from_numpy(flat)[None])[0].half())
            part = path.with_suffix(".part")
            save_file({"features": torch.stack(rows)}, str(part))
            part.rename(path)
            print(path.name, flush=True)
        parts.append(load_file(str(path))["features"])
    return torch.cat(parts)


def sheet(folder: Path, pictures: list[Picture], columns: int = 16) -> Image.Image:
    """A contact sheet, to look at."""
    side = 96
    rows = -(-len(pictures) // columns)
    out = Image.new("RGB", (columns * side, rows * side), "white")
    for i, picture in enumerate(pictures):
        small = open_image(folder / picture.file)
        small.thumbnail((side - 4, side - 4))
        out.paste(small, (i % columns * side, i // columns * side))
    return out
