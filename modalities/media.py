"""Pictures from files and into pixels: limits on hostile input, orientation, colour, size.

Every picture that enters comes through `open_image`. Knows pixels only: no backbone, no token.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 40_000_000  # A0 at 120 dpi has 22 million
# What may be opened: formats that Pillow decodes itself. Not EPS (it starts another program).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")


class MediaError(ValueError):
    """A picture cannot be read. Says which file and why."""

    def __init__(self, path: Path | str, reason: str) -> None:
        self.path, self.reason = Path(path), reason
        super().__init__(f"{path}: {reason}")


def open_image(path: Path | str, max_pixels: int = MAX_PIXELS) -> Image:
    """A picture file as an RGB image, upright (EXIF orientation applied), fully decoded.

    Of a file with several frames the first. Transparent parts become white.

    Args:
        path: the file; its format is told from its content, not from its name.
        max_pixels: largest width * height, checked on the header before any pixel is decoded.
            Larger: larger pictures pass, and a small hostile file may take more memory (about 8
            bytes a pixel). Above 178 million Pillow's own limit holds.

    Raises MediaError, which names the file: missing, empty, no picture, too large, truncated.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(path)
    if not path.exists():
        raise MediaError(path, "no such file")
    if not path.is_file():  # opening a pipe would wait for ever
        raise MediaError(path, "not a regular file")
    try:
        if path.stat().st_size == 0:
            raise MediaError(path, "the file is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here, and odd metadata
            Image.init()  # Pillow's plugins; AVIF is not in every build
            with Image.open(path, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
                width, height = image.size
                if width * height > max_pixels:
                    reason = f"{width} x {height} pixels are more than the limit of {max_pixels}"
                    raise MediaError(path, f"{reason}: make it smaller, or raise max_pixels")
                image.load()
                try:
                    upright = ImageOps.exif_transpose(image)
                except Exception:  # broken metadata is no reason to refuse a good picture
                    upright = image.copy()
                return to_rgb(upright)
    except MediaError:
        raise
    except UnidentifiedImageError as error:
        raise MediaError(path, f"no picture, or none of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise MediaError(path, f"too large: {error}") from error
    except MemoryError as error:
        raise MediaError(path, "not enough memory to decode it") from error
    except Exception as error:  # decoders raise nearly anything on broken input
        raise MediaError(path, f"cannot be decoded (truncated or damaged): {error}") from error


def as_image(item: Any) -> Image:
    """A raw item, an image or the path of a picture file, as an RGB image.

    Raises MediaError as `open_image` does, and for an image without pixels; TypeError otherwise.
    """
    from PIL import Image

    if isinstance(item, (str, Path)):
        return open_image(item)
    if not isinstance(item, Image.Image):
        raise TypeError(f"a picture is a PIL image or a path, not {type(item).__name__}")
    if not item.width or not item.height:
        raise MediaError("<image>", f"{item.width} x {item.height}: no pixels")
    return to_rgb(item)


def to_rgb(image: Image) -> Image:
    """Any mode to RGB: transparent parts over white, 16-bit and float greys scaled to 8 bits
    (Pillow's own conversion would clip them to white)."""
    from PIL import Image

    if image.mode == "RGB":
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, "white")
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """16-bit greys over their whole range; 32-bit and float over the range they use."""
    wide = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    if mode.startswith("I;16"):
        low, high = 0.0, 65535.0
    else:
        low, high = float(wide.min()), float(wide.max())
        if low >= 0 and high <= 255 and mode == "I":
            low, high = 0.0, 255.0
        elif low >= 0 and high <= 65535 and mode == "I":  # how 16-bit PNGs may arrive
            low, high = 0.0, 65535.0
    scaled: np.ndarray = np.round((wide - low) * (255.0 / max(high - low, 1e-12)))
    return scaled.astype(np.uint8)


def pixels(image: Image, size: tuple[int, int], interpolation: str = "bicubic") -> np.ndarray:
    """(3, height, width) uint8 of an RGB image stretched to `size` = (height, width).

    The whole picture stays (nothing is cropped), so a patch's place is the same fraction of the
    picture as of the lattice. interpolation: "nearest", "bilinear", "bicubic" or "lanczos".
    """
    from PIL import Image

    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling[interpolation.upper()])
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))
