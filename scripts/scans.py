"""What scanners, faxes, copiers and phones do to a page: drawn at random, or by name for tests.

A `Scan` says what happens; `warp` and `moved` do to pixels and to labels what it says of geometry,
`soil` does the rest. Training draws new ones for every crop (`any_scan`); benchmarks use LEVELS,
whose seeds and values no training has seen.
"""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter


@dataclass(frozen=True)
class Scan:
    """One way of scanning. The defaults change nothing.

    angle: degrees, anticlockwise; keystone: how much smaller the far end is, across and down, a
    thousand pixels away; blur: sigma in pixels; fine: of the resolution left, 1 keeps all;
    contrast: of ink, 1 keeps all; paper: ink of the paper; shade: ink that a shadow adds at most;
    bleed: of the back side that shows through; noise: sigma; speckle: share of pixels under dots;
    bits: 1 for black and white, decided at ink `threshold`; jpeg: quality, 0 for none; dark: the
    page is inverted.
    """

    angle: float = 0
    keystone: tuple[float, float] = (0, 0)
    blur: float = 0
    fine: float = 1
    contrast: float = 1
    paper: float = 0
    shade: float = 0
    bleed: float = 0
    noise: float = 0
    speckle: float = 0
    bits: int = 8
    threshold: float = 0.5
    jpeg: int = 0
    dark: bool = False

    @property
    def straight(self) -> bool:
        return self.angle == 0 and self.keystone == (0, 0)


LEVELS = {  # for benchmarks: a good office scanner, a copy of a copy, a fax
    "office": Scan(angle=0.4, blur=0.5, paper=0.04, contrast=0.85, noise=0.03, jpeg=70),
    "copy": Scan(
        angle=-1.1, keystone=(0.02, 0.01), blur=0.8, contrast=0.65, paper=0.1, shade=0.2,
        bleed=0.1, noise=0.06, speckle=0.0004, jpeg=45,
    ),
    "fax": Scan(angle=0.8, blur=0.6, noise=0.08, speckle=0.001, bits=1, threshold=0.45),
}  # fmt: skip


def any_scan(rng: random.Random, hard: float) -> Scan:
    """A share of `hard` with several faults at once, the others nearly clean, as rendered pages
    are."""

    def at(chance: float, low: float, high: float, usual: float = 0) -> float:
        return rng.uniform(low, high) if rng.random() < chance else usual

    if rng.random() >= hard:
        return Scan(
            blur=at(0.12, 0.3, 0.8), contrast=at(0.25, 0.5, 1.0, 1), paper=at(0.15, 0, 0.15),
            noise=at(0.15, 0.01, 0.05), jpeg=int(at(0.1, 40, 90)), dark=rng.random() < 0.06,
        )  # fmt: skip
    bits = 1 if rng.random() < 0.25 else 8
    contrast = at(0.5, 0.35, 1.0, 1)
    return Scan(
        angle=at(0.6, -1.6, 1.6) + at(0.1, -1.5, 1.5),
        keystone=(at(0.2, -0.06, 0.06), at(0.2, -0.06, 0.06)),
        blur=at(0.6, 0.3, 1.1),
        fine=at(0.2, 0.6, 0.95, 1),
        contrast=contrast,
        paper=at(0.4, 0, 0.3),
        shade=at(0.3, 0.05, 0.35),
        bleed=at(0.2, 0.04, 0.2),
        noise=contrast * at(0.5, 0.01, 0.1),
        speckle=at(0.2, 0.0001, 0.003),
        bits=bits,
        threshold=rng.uniform(0.3, 0.6),
        jpeg=int(at(0.35, 25, 80)),
        dark=rng.random() < 0.03,
    )


def matrix(scan: Scan, middle: tuple[float, float]) -> np.ndarray:
    """Homography (3, 3) of points of the page (pixels: x, y, 1), which leaves `middle` in place."""
    turn, (across, down) = math.radians(scan.angle), scan.keystone
    cosine, sine = math.cos(turn), math.sin(turn)
    away = np.array([[1, 0, -middle[0]], [0, 1, -middle[1]], [0, 0, 1]], dtype=np.float64)
    back = np.array([[1, 0, middle[0]], [0, 1, middle[1]], [0, 0, 1]], dtype=np.float64)
    lens = np.array(
        [[cosine, sine, 0], [-sine, cosine, 0], [across / 1000, down / 1000, 1]], dtype=np.float64
    )
    return back @ lens @ away


def moved(homography: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points (in pixels) come to lie."""
    new = homography @ np.stack([x, y, np.ones_like(x)])
    return new[0] / new[2], new[1] / new[2]


def warp(
    image: Image.Image, homography: np.ndarray, size: tuple[int, int], paper: int
) -> Image.Image:
    """The grey page under a homography, cut to size (width, height), with paper around it."""
    inverse = np.linalg.inv(homography)
    coefficients = (inverse / inverse[2, 2]).flatten()[:8].tolist()
    how = Image.Transform.PERSPECTIVE
    return image.transform(size, how, coefficients, Image.Resampling.BICUBIC, fillcolor=paper)


def soil(image: Image.Image, scan: Scan, seed: int) -> np.ndarray:
    """Ink in 0..1 (float32) of a grey picture, whose geometry is left alone."""
    rng = np.random.default_rng(seed)
    size = image.size
    if scan.fine < 1:
        small = (max(1, round(size[0] * scan.fine)), max(1, round(size[1] * scan.fine)))
        image = image.resize(small, Image.Resampling.BOX).resize(size, Image.Resampling.BICUBIC)
    if scan.blur:
        image = image.filter(ImageFilter.GaussianBlur(scan.blur))
    ink = 1 - np.asarray(image, dtype=np.float32) / 255
    if scan.bleed:
        back = np.asarray(image.filter(ImageFilter.GaussianBlur(1.2)), dtype=np.float32)[:, ::-1]
        back = np.roll(back, int(rng.integers(len(back))), axis=0)
        ink = np.maximum(ink, scan.bleed * (1 - back / 255))
    ink = ink * scan.contrast * (1 - scan.paper) + scan.paper
    if scan.shade:
        ink = ink + _shadow(ink.shape, scan.shade, rng) * (1 - ink)
    if scan.noise:
        ink = ink + rng.normal(0, scan.noise, ink.shape).astype(np.float32)
    if scan.speckle:
        _speckle(ink, scan.speckle, rng)
    if scan.bits == 1:
        ink = _black_and_white(ink, scan, rng)
    if scan.dark:
        ink = 1 - ink
    ink = np.clip(ink, 0, 1)
    if scan.jpeg:
        packed = io.BytesIO()
        Image.fromarray(np.uint8(255 - 255 * ink)).save(packed, "JPEG", quality=scan.jpeg)
        ink = 1 - np.asarray(Image.open(packed), dtype=np.float32) / 255
    return ink


def _shadow(shape: tuple[int, ...], most: float, rng: np.random.Generator) -> np.ndarray:
    """A shadow that grows in some direction, or as a book's spine does near one edge."""
    turn = rng.uniform(0, 2 * math.pi)
    y, x = np.linspace(-1, 1, shape[0])[:, None], np.linspace(-1, 1, shape[1])[None]
    along = (math.cos(turn) * x + math.sin(turn) * y) / 1.42 / 2 + 0.5
    power = 1 if rng.random() < 0.6 else 6
    return (most * along.clip(0, 1) ** power).astype(np.float32)


def _speckle(ink: np.ndarray, share: float, rng: np.random.Generator) -> None:
    """Dots of one to four pixels, two of three dark, into `ink`."""
    count = rng.poisson(share * ink.size / 2)
    y, x = rng.integers(0, ink.shape[0] - 1, count), rng.integers(0, ink.shape[1] - 1, count)
    value = (rng.random(count) < 0.67).astype(np.float32)
    ink[y, x] = value
    wide = rng.random(count) < 0.4
    ink[y[wide], x[wide] + 1] = value[wide]
    ink[y[wide] + 1, x[wide]] = value[wide]


def _black_and_white(ink: np.ndarray, scan: Scan, rng: np.random.Generator) -> np.ndarray:
    """One bit a pixel, at this resolution or (as from a finer scan, made smaller) at twice it."""
    middle = scan.paper + (1 - scan.paper) * scan.contrast * scan.threshold
    if rng.random() < 0.5:
        return (ink > middle).astype(np.float32)
    grey = Image.fromarray(np.uint8(255 * ink.clip(0, 1)))
    double = grey.resize((grey.width * 2, grey.height * 2), Image.Resampling.BICUBIC)
    bits = np.asarray(double) > 255 * middle
    return bits.reshape(ink.shape[0], 2, ink.shape[1], 2).mean((1, 3), dtype=np.float32)


def scanned(image: Image.Image, scan: Scan, seed: int) -> Image.Image:
    """A whole grey page, scanned: the same size, turned about its middle."""
    paper = int(np.median(np.asarray(image)[::8, ::8]))
    if not scan.straight:
        middle = (image.width / 2, image.height / 2)
        image = warp(image, matrix(scan, middle), image.size, paper)
    return Image.fromarray(np.uint8(255 - 255 * soil(image, scan, seed)))
