"""Drawn pictures as pixels, as training varies them, and sheets of them to look at.

    python scripts/picture_views.py --data DATA --out sheet.png

A picture is stretched to a square, as the package does it, and keeps its transparency: what it is laid over
is up to who looks. All of them are kept small (WebP) in one file beside the drawn ones.
"""

from __future__ import annotations

import argparse
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import picture_data
import torch
from picture_data import Picture
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from modalities.picture_net import SIDE

THREADS = 8


def pixels(data: Path, table: list[Picture]) -> Tensor:
    """(pictures, 4, SIDE, SIDE) uint8, red, green, blue and how opaque: of `picture_data.load(data)`."""
    folder = data / "pictures/drawn"
    kept = folder / "pixels.safetensors"
    with ThreadPoolExecutor(THREADS) as pool:
        if not kept.exists():
            small = list(pool.map(lambda picture: _packed(folder / picture.file), table))
            ends = torch.tensor([len(one) for one in small]).cumsum(0)
            whole = torch.frombuffer(bytearray(b"".join(small)), dtype=torch.uint8)
            part = kept.with_suffix(".part")
            save_file({"bytes": whole, "ends": ends}, str(part))
            part.rename(kept)
        stored = load_file(str(kept))
        if len(stored["ends"]) != len(table):
            raise ValueError(
                f"{kept} has {len(stored['ends'])} pictures, not {len(table)}: delete it"
            )
        pieces = np.split(stored["bytes"].numpy(), stored["ends"].tolist()[:-1])
        found = list(pool.map(_unpacked, pieces))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()


def _packed(path: Path) -> bytes:
    image = Image.open(path).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    target = io.BytesIO()
    image.save(target, "WEBP", quality=80, alpha_quality=60)
    return target.getvalue()


def _unpacked(small: np.ndarray) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(small.tobytes())).convert("RGBA"))


def on_white(rgba: Tensor) -> Tensor:
    """(B, 4, SIDE, SIDE) uint8 -> (B, 3, SIDE, SIDE) of 0 to 255, as a user's file comes."""
    shown = rgba.float()
    opaque = shown[:, 3:] / 255
    return shown[:, :3] * opaque + 255 * (1 - opaque)


def varied(rgba: Tensor, mirrored: Tensor, icon: Tensor) -> Tensor:
    """Pictures as no two users would draw, scan or photograph them: (B, 4, SIDE, SIDE) uint8 -> (B, 3,
    SIDE, SIDE) of 0 to 255. Larger or smaller, turned, shifted and stretched a little, on papers of some
    colour, paler, brighter, tinted, sometimes grey. mirrored (B,): which are turned over; icon (B,): which
    are of one dark colour: their paper stays light, and some are white on dark."""
    n, device = len(rgba), rgba.device

    def even(*shape: int) -> Tensor:  # from -1 to 1
        return torch.rand(n, *shape, device=device) * 2 - 1

    def some(share: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, device=device) < share

    icon = icon[:, None, None, None]
    shown = rgba.float() / 255
    zoom, stretch = torch.exp(0.25 * even(1) + 0.05), torch.exp(0.12 * even(1))
    cos, sin = torch.cos(angle := 0.2 * even(1)), torch.sin(angle)
    over = torch.where(mirrored[:, None], -1.0, 1.0)
    across = torch.cat([over * cos * zoom * stretch, -sin * zoom, 0.1 * even(1)], 1)
    down = torch.cat([over * sin * zoom, cos * zoom / stretch, 0.1 * even(1)], 1)
    places = F.affine_grid(torch.stack([across, down], 1), [n, 4, SIDE, SIDE], align_corners=False)
    laid = torch.cat([shown[:, :3] * shown[:, 3:], shown[:, 3:]], 1)
    laid = F.grid_sample(laid, places, align_corners=False)
    tint = 0.7 * torch.rand(n, 3, 1, 1, device=device) * some(0.4) * torch.where(icon, 0.5, 1.0)
    seen = laid[:, :3] + (1 - tint) * (1 - laid[:, 3:])
    grey = seen.mean(1, keepdim=True)
    seen = grey + (seen - grey) * torch.where(some(0.12), 0.0, 1 + 0.5 * even(1, 1, 1))
    seen = seen * (1 + 0.12 * even(3, 1, 1)) * (1 + 0.2 * even(1, 1, 1)) + 0.08 * even(1, 1, 1)
    seen = torch.where(some(0.15) & icon, 1 - seen, seen)
    return seen.clamp(0, 1) * 255


def sheet(images: Tensor, columns: int = 16) -> Image.Image:
    """A contact sheet of (N, 3, SIDE, SIDE), 0 to 255."""
    side = 96
    out = Image.new("RGB", (columns * side, -(-len(images) // columns) * side), "white")
    for i, image in enumerate(images.byte().permute(0, 2, 3, 1).cpu().numpy()):
        small = Image.fromarray(image).resize((side - 4, side - 4))
        out.paste(small, (i % columns * side, i // columns * side))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    table = picture_data.load(args.data)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(table), generator=generator)[:96]
    icon = torch.tensor([table[i].icon for i in chosen])
    shown = pixels(args.data, table)[chosen]
    sheet(varied(shown, torch.zeros(len(chosen), dtype=torch.bool), icon)).save(args.out)


if __name__ == "__main__":
    main()
