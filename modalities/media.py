"""Pictures and recordings from files, with limits on hostile input: pixels and samples.

Every picture that enters comes through `open_image` (orientation, colour, size), every recording
through `open_audio` (one channel, loudness as it is) and `resample`. Knows pixels and samples
only: no backbone, no token.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 40_000_000  # A0 at 120 dpi has 22 million
ORIENTATION = 0x0112  # EXIF's tag; 5 to 8 turn a picture by a quarter
# What may be opened: formats that Pillow decodes itself. Not EPS (it starts another program).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA")

MAX_SECONDS = 4 * 3600.0  # of one recording
MAX_AUDIO_BYTES = 4_000_000_000  # of its file; four hours of stereo in 16 bits have 2.8e9
MAX_CHANNELS = 16
RATES = (1_000, 384_000)  # samples a second, lowest and highest
# What libsndfile reads itself. Not RAW, which says nothing about what it holds.
AUDIO_FORMATS = ("WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MP3", "AIFF", "CAF", "AU")
AUDIO_BLOCK = 1 << 18  # frames read at once, so that many channels never are in memory together
# libsndfile reads a file that was cut off without a word; only its log says so.
_CUT_CHUNK = re.compile(r"^\s*(?:data|SSND)\s*:\s*(\d+) \(should be \d+\)", re.MULTILINE)
_CUT_OGG = re.compile(r"lacks an end-of-stream|without an end-of-stream", re.IGNORECASE)
_NO_LENGTH = (0, 0x7FFFFFFF, 0xFFFFFFFF)  # what programs that write into a pipe put for a length
SHORTFALL = 0.95  # of the announced length must be there; an MP3 may announce an estimate


class MediaError(ValueError):
    """A picture or a recording cannot be read. Says which file and why."""

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


def image_size(item: Any) -> tuple[int, int]:
    """(width, height) of what `as_image` would give, from a file's header alone.

    A file that `open_image` refuses raises its MediaError here too, as far as the header says so.
    """
    from PIL import Image

    if isinstance(item, Image.Image):
        return item.size
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.init()
            with Image.open(item, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
                width, height = image.size
                sideways = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # the whole file knows the reason, or that there is none
        return as_image(item).size
    if width * height > MAX_PIXELS:
        return as_image(item).size
    return (height, width) if sideways else (width, height)


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


@dataclass(frozen=True, eq=False)
class Audio:
    """A recording in memory.

    samples: float32 (n,), one channel, -1 to 1, n at least 1, all finite; rate: samples a second.
    Raises MediaError for anything else (name a file with `open_audio`, mix channels down first).
    """

    samples: np.ndarray
    rate: int

    def __post_init__(self) -> None:
        if not isinstance(self.rate, int) or not RATES[0] <= self.rate <= RATES[1]:
            low, high = RATES
            raise MediaError(_SOUND, f"a rate of {self.rate!r}; wanted an int of {low} to {high}")
        if self.samples.ndim != 1 or self.samples.dtype != np.float32:
            shape, dtype = self.samples.shape, self.samples.dtype
            raise MediaError(_SOUND, f"samples {dtype} {shape}; wanted one channel: float32 (n,)")
        if not len(self.samples):
            raise MediaError(_SOUND, "no samples")
        if not np.isfinite(self.samples).all():
            raise MediaError(_SOUND, "samples that are not finite")

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


_SOUND = "<audio>"  # stands for a file's name where a recording comes from memory


@dataclass(frozen=True)
class AudioFacts:
    """What the header of a recording's file says. frames: samples of each channel."""

    frames: int
    rate: int
    channels: int

    @property
    def seconds(self) -> float:
        return self.frames / self.rate


def audio_facts(path: Path | str, max_seconds: float = MAX_SECONDS) -> AudioFacts:
    """Length, rate and channels of a recording's file, from its header; nothing is decoded.

    Raises MediaError as `open_audio` does.
    """
    with _opened(Path(path), max_seconds) as file:
        return AudioFacts(file.frames, file.samplerate, file.channels)


def open_audio(
    path: Path | str,
    *,
    start: float = 0.0,
    seconds: float | None = None,
    max_seconds: float = MAX_SECONDS,
) -> Audio:
    """A recording's file, or a stretch of it, as one channel at the file's own rate.

    WAV, FLAC, OGG (Vorbis, Opus), MP3, AIFF and their kin, through libsndfile; the format is told
    from the content. Channels are mixed to their mean; samples beyond -1..1 are cut to it.

    Args:
        path: the file.
        start, seconds: the stretch, in seconds from the beginning; None: to the end. A stretch
            that ends behind the recording ends with it.
        max_seconds: longest recording that is opened, checked on the header. Larger: longer ones
            pass; a whole one in memory takes 4 bytes a sample, 0.7 GB an hour at 48 kHz.

    Raises MediaError, which names the file: missing, empty, no recording, too long, too many
    channels, truncated, samples that are not finite, a stretch without a sample.
    """
    path = Path(path)
    with _opened(path, max_seconds) as file:
        first = min(round(start * file.samplerate), file.frames)
        count = file.frames - first
        if seconds is not None:
            count = min(count, round(seconds * file.samplerate))
        if first < 0 or count <= 0:
            whole = f"the recording has {file.frames / file.samplerate:.2f} s"
            raise MediaError(path, f"no samples from {start:g} s on: {whole}")
        file.seek(first)
        blocks = []
        left = count
        while left > 0:
            block = file.read(min(left, AUDIO_BLOCK), dtype="float32", always_2d=True)
            if not len(block):
                break
            blocks.append(block.mean(axis=1))
            left -= len(block)
        if left > count * (1 - SHORTFALL):
            there, rate = (count - left) / file.samplerate, file.samplerate
            reason = f"ends after {there:.2f} s of {count / rate:.2f} s"
            raise MediaError(path, f"{reason} (truncated or damaged): get a whole copy")
        samples = np.concatenate(blocks)
        if not np.isfinite(samples).all():
            raise MediaError(path, "has samples that are not finite: export it again")
        return Audio(np.clip(samples, -1, 1), file.samplerate)


@contextmanager
def _opened(path: Path, max_seconds: float) -> Iterator[Any]:
    """The file as a soundfile.SoundFile within the limits; whatever goes wrong, a MediaError."""
    import soundfile

    if not path.exists():
        raise MediaError(path, "no such file")
    if not path.is_file():
        raise MediaError(path, "not a regular file")
    size = path.stat().st_size
    if size == 0:
        raise MediaError(path, "the file is empty")
    if size > MAX_AUDIO_BYTES:
        raise MediaError(path, f"{size} bytes, the limit is {MAX_AUDIO_BYTES}: split it")
    try:
        with path.open("rb") as raw, soundfile.SoundFile(raw) as file:
            _check_header(path, file, max_seconds)
            yield file
    except MediaError:
        raise
    except MemoryError as error:
        raise MediaError(path, "not enough memory to decode it") from error
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError, ValueError) as error:
        kinds = ", ".join(AUDIO_FORMATS)
        raise MediaError(path, f"no recording ({kinds}), or a damaged one: {error}") from error


def _check_header(path: Path, file: Any, max_seconds: float) -> None:
    """Raises MediaError for a header beyond the limits, or of a file that was cut off."""
    low, high = RATES
    if file.format not in AUDIO_FORMATS:
        raise MediaError(path, f"{file.format} is none of {', '.join(AUDIO_FORMATS)}")
    if not low <= file.samplerate <= high:
        raise MediaError(path, f"{file.samplerate} samples a second; wanted {low} to {high}")
    if file.channels > MAX_CHANNELS:
        reason = f"{file.channels} channels, the limit is {MAX_CHANNELS}"
        raise MediaError(path, f"{reason}: mix them down")
    log = file.extra_info
    chunks = [int(length) for length in _CUT_CHUNK.findall(log)]
    if any(length not in _NO_LENGTH for length in chunks) or _CUT_OGG.search(log):
        raise MediaError(path, "shorter than its header says (truncated): get a whole copy")
    if file.frames < 1:
        raise MediaError(path, "it has no samples")
    seconds = file.frames / file.samplerate
    if seconds > max_seconds:
        reason = f"{seconds:.0f} s are more than the limit of {max_seconds:.0f} s"
        raise MediaError(path, f"{reason}: split it, or raise max_seconds")


def as_audio(item: Any) -> Audio:
    """A raw item as an Audio: an Audio, the path of a recording's file, or (samples, rate).

    samples: a sequence, array or tensor (n,) of one channel; floats in -1..1 (what lies beyond is
    cut to it), or integers over their type's range. Raises MediaError as `open_audio` and `Audio`
    do, TypeError for other items.
    """
    if isinstance(item, Audio):
        return item
    if isinstance(item, (str, Path)):
        return open_audio(item)
    if not isinstance(item, tuple) or len(item) != 2:
        raise TypeError(
            f"a recording is an Audio, a path or (samples, rate), not {type(item).__name__}"
        )
    given, rate = item
    samples = np.asarray(given)
    if samples.dtype.kind == "i":
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif samples.dtype.kind != "f" and samples.size:
        raise TypeError(f"samples are floats or signed integers, not {samples.dtype}")
    if hasattr(rate, "__index__"):
        rate = int(rate)
    return Audio(np.clip(samples, -1, 1).astype(np.float32), rate)


def resample(audio: Audio, rate: int) -> np.ndarray:
    """Samples (n,) float32 of a recording at another rate, through soxr in its high quality; never
    fewer than one."""
    if audio.rate == rate:
        return audio.samples
    import soxr

    samples: np.ndarray = soxr.resample(audio.samples, audio.rate, rate, "HQ")
    return samples if len(samples) else audio.samples[:1]
