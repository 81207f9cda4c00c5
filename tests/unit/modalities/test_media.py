"""open_image: what comes out, and what hostile files get."""

from __future__ import annotations

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modalities.media import MediaError, as_image, open_image, pixels, to_rgb


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises a size and holds no pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(9000, 9000), (12000, 12000), (60000, 60000)])
def test_too_many_pixels_are_refused_on_the_header(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(*size))
    with pytest.raises(MediaError, match=r"huge\.png: .*(more than the limit|too large)") as error:
        open_image(path)
    assert error.value.path == path
    assert "raise max_pixels" in error.value.reason or size[0] > 20_000


def test_the_limit_is_the_callers(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 10)).save(path)
    assert open_image(path, max_pixels=200).size == (20, 10)
    with pytest.raises(MediaError, match="20 x 10 pixels are more than the limit of 199"):
        open_image(path, max_pixels=199)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_truncated_files_are_refused(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{kind.lower()}"
    Image.fromarray(noise).save(path, kind)
    assert open_image(path).size == (64, 64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(MediaError, match=r"cut\."):
        open_image(path)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "run.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in {
        "empty.png": "the file is empty",
        "text.png": "no picture",
        "run.eps": "no picture",
        "folder.png": "not a regular file",
        "pipe.png": "not a regular file",
        "missing.png": "no such file",
    }.items():
        with pytest.raises(MediaError, match=message) as error:
            open_image(tmp_path / name)
        assert str(error.value).startswith(str(tmp_path / name))


def test_every_damaged_byte_gives_a_picture_or_an_error(tmp_path: Path) -> None:
    """No damage leads to another exception than MediaError."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)
    for kind in ("PNG", "GIF", "TIFF", "JPEG"):
        path = tmp_path / f"a.{kind.lower()}"
        Image.fromarray(noise).save(path, kind)
        good = path.read_bytes()
        for place in rng.choice(min(len(good), 300), 100, replace=False):
            path.write_bytes(good[:place] + bytes([rng.integers(256)]) + good[place + 1 :])
            with suppress(MediaError):
                assert open_image(path, max_pixels=10_000).mode == "RGB"


def test_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (0, 0, 20, 20))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: the left half comes to the top
    path = tmp_path / "turned.jpg"
    picture.save(path, exif=exif, quality=95)
    upright = open_image(path)
    assert upright.size == (20, 40)
    assert upright.getpixel((10, 5))[2] > 200 > 60 > upright.getpixel((10, 5))[0]  # type: ignore[index]


def test_broken_exif_is_no_reason_to_refuse(tmp_path: Path) -> None:
    path = tmp_path / "exif.jpg"
    Image.new("RGB", (8, 8), "red").save(path, exif=b"Exif\x00\x00" + b"\xff" * 40)
    assert open_image(path).size == (8, 8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert to_rgb(Image.new("RGB", (3, 2), "white").convert("RGBA").convert("RGB")).mode == "RGB"
    image = Image.new(mode, (3, 2))
    assert (to_rgb(image).mode, to_rgb(image).size) == ("RGB", (3, 2))


def test_transparent_is_white() -> None:
    see_through = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    see_through.putpixel((1, 0), (10, 20, 30, 255))
    assert np.asarray(to_rgb(see_through)).tolist() == [[[255] * 3, [10, 20, 30]]]
    grey = Image.new("L", (1, 1), 0)
    grey.info["transparency"] = 0
    assert to_rgb(grey).getpixel((0, 0)) == (255, 255, 255)


def test_deep_greys_are_scaled_not_clipped(tmp_path: Path) -> None:
    deep = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.asarray(open_image(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 100, 255]
    floats = np.array([[0.0, 0.5, np.nan, 1.0]], dtype=np.float32)
    assert np.asarray(to_rgb(Image.fromarray(floats)))[0, :, 0].tolist() == [0, 128, 0, 255]
    assert np.asarray(to_rgb(Image.new("F", (2, 1), 3.0)))[0, :, 0].tolist() == [0, 0]
    small = np.array([[0, 7, 255]], dtype=np.int32)
    assert np.asarray(to_rgb(Image.fromarray(small)))[0, :, 0].tolist() == [0, 7, 255]


def test_raw_items(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("L", (4, 3), 9).save(path)
    for item in (path, str(path), Image.open(path)):
        assert (as_image(item).mode, as_image(item).size) == ("RGB", (4, 3))
    with pytest.raises(TypeError, match="not ndarray"):
        as_image(np.zeros((3, 3)))
    with pytest.raises(MediaError, match="0 x 5"):
        as_image(Image.new("RGB", (0, 5)))


def test_pixels_stretch_the_whole_picture() -> None:
    picture = Image.new("RGB", (10, 4), "red")
    picture.paste("blue", (5, 0, 10, 4))
    out = pixels(picture, (6, 8), "nearest")  # height, width
    assert (out.shape, out.dtype) == ((3, 6, 8), np.uint8)
    assert (out[0, :, :4] == 255).all() and (out[2, :, 4:] == 255).all()
    assert (pixels(picture, (4, 10)) == np.asarray(picture).transpose(2, 0, 1)).all()
