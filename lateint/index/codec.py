"""The codec: a token of D floats becomes a centroid's number and D symbols of 1, 2 or 4 bits.

Knows numbers, not documents, files or queries' scores. The packing of bits and the passes over all
tokens are the kernels' (`lateint.index.kernels`).

    y = R x                          a random rotation evens out the dimensions; MaxSim does not see it
    code = nearest centroid to y     through coarse cells (`kmeans.Cells`)
    r = y - c_code, divided by its spread |r| / sqrt(D): every token then uses all of the levels
    symbols of r / (t scale)         a trellis code (kernels: TRELLIS): each means one of 2^nbits int8
                                     levels, of which there are two sets, told by the symbols before
    f                                the token's factor, one byte: 256 steps of equal ratio
    y ~ c_code + f * scale * level

Of a few stretches t the one is taken that suits the token best, at no cost in bytes or searching. The
levels are the best for a normal distribution, which is what the rotation makes of residuals (Lloyd's
iteration over the trellis, then whole numbers; test_codec.py looks whether they are). The factor is the
one that minimises |e|^2 + 64 <e, y>^2 / <y, y> for the error e that is left: the query token that a
token is the best match of points its way, so an error along the token itself counts most (ScaNN's
anisotropic loss, applied to the factor only).

Everything that a search needs stays rotated: centroids and tokens; queries are rotated once.
Centroids are int8 with one step each: at 16 sqrt(tokens) centroids float32 would cost up to a tenth
of the index. They are rounded before the first token is encoded, so the residuals make up for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lateint.index import kernels, kmeans

F32 = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

MOST = 65536  # centroids: a code is 16 bits
FEWEST = 16
PER_CENTROID = 32  # points of the sample; more: slightly better centroids, slower training
SAMPLE_BYTES = 176 << 20  # of float32: bounds the memory of training
BLOCK = 32768  # tokens encoded together: bounds the memory of encoding
FITTED = 1 << 16  # tokens of which the residuals' lengths are measured
# The positive levels of both sets, and the size of 1 in units of the residuals' standard deviation.
# At 1 and 2 bits they are within +-32, which keeps the kernels' sums in 16 bits.
LEVELS: dict[int, tuple[tuple[int, ...], float]] = {
    1: ((10, 31), 0.0384),
    2: ((3, 11, 18, 31), 0.0605),
    4: ((1, 3, 5, 7, 9, 11, 13, 16, 18, 21, 24, 27, 31, 36, 43, 55), 0.0599),
}
ALONG = 64.0  # weight of the error along the token: (D - 1) cos^2 / (1 - cos^2) at cosine 0.58
STRETCHES = {  # each more costs building a microsecond a token; twice as many: 3 % less energy
    1: (0.95, 1.1, 1.25),
    2: (0.84, 0.92, 1.0, 1.08, 1.16),
    4: (0.83, 0.93, 1.03, 1.15),
}
ARRAYS = ("rotation", "centroids", "steps", "scale", "levels", "factors")
PLAIN = ("boundaries",)  # what plain codes have besides


@dataclass(frozen=True, eq=False)
class Codes:
    """N encoded tokens."""

    codes: npt.NDArray[np.uint16]  # (N,) their centroids
    packed: npt.NDArray[np.uint8]  # (N, D nbits / 8) their residuals, see kernels.PACKING
    factor: npt.NDArray[np.uint8]  # (N,) positions in Codec.factors

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, eq=False)
class Codec:
    """How tokens of one width are encoded. Made by `train` or `from_arrays`; never changes.

    rotation: float32 (D, D), orthogonal; y = x @ rotation.
    whole: int8 (K, D) and steps: float32 (K,): the centroids, rotated.
    scale: float32 (D,); levels: int8 (2, 2^nbits), rising column by column. A plain code, out of an
    index of format 2, has levels (2^nbits,) and boundaries float32 (2^nbits - 1,) between them.
    factors: float32 (256,), rising: what a token's factor byte stands for; kernels take
    `codec.factors[encoded.factor]`.
    """

    rotation: F32
    whole: npt.NDArray[np.int8]
    steps: F32
    scale: F32
    levels: npt.NDArray[np.int8]
    boundaries: F32 | None
    factors: F32

    @property
    def dim(self) -> int:
        return len(self.rotation)

    @property
    def nbits(self) -> int:
        return self.levels.shape[-1].bit_length() - 1

    @cached_property
    def centroids(self) -> F32:
        """(K, D) float32, rotated."""
        return self.whole * self.steps[:, None]

    @cached_property
    def cells(self) -> kmeans.Cells:
        return kmeans.Cells.over(self.centroids)

    @classmethod
    def train(
        cls,
        sample: Array,
        *,
        nbits: int,
        centroids: int | None = None,
        tokens: int | None = None,
        seed: int = 0,
        threads: int = 0,
        overwrite: bool = False,
    ) -> Codec:
        """A codec for tokens like those of `sample` (n, D), finite floats of any type.

        nbits: 1, 2 or 4; more: better scores, D/8 bytes a token each.
        centroids: 1 to 65,536, at most n (default: `default_centroids`). More: better candidates
        and scores, larger index, slower training and slower short queries.
        tokens: how many the collection will have (default: n); only the default above needs it.
        threads: of the kernels; 0: all cores. The matrix products follow the BLAS's own setting.
        overwrite: `sample` may be written to, which saves a copy of it.
        The same sample and seed give the same codec, byte for byte, on the same machine.
        Raises ValueError: wrong shape, NaN, no rows, impossible numbers.
        """
        if nbits not in LEVELS:
            raise ValueError(f"nbits is {nbits}; choose 1, 2 or 4")
        points = checked(sample, None)
        count, dim = points.shape
        if not count:
            raise ValueError("no tokens to train a codec with; give it a sample of the collection")
        if centroids is None:
            centroids = default_centroids(count if tokens is None else tokens, count)
        if not 1 <= centroids <= min(MOST, count):
            raise ValueError(
                f"wanted {centroids} centroids of {count} tokens; ask for 1 to {min(MOST, count)}"
            )
        rotation = rotate_at_random(dim, seed)
        points = _rotated(points, rotation, overwrite and points is sample)
        trained = kmeans.train(points, centroids, seed=seed, threads=threads)
        largest = np.abs(trained).max(axis=1)
        steps = np.where(largest > 0, largest / 127, 1).astype(np.float32)
        whole = np.rint(trained / steps[:, None]).astype(np.int8)
        cells = kmeans.Cells.over(whole * steps[:, None])
        rng = np.random.default_rng(seed)
        some = points[np.sort(rng.choice(count, min(count, FITTED), replace=False))]
        residuals = some - cells.centroids[cells.assign(some, threads=threads)]
        spreads = spread(residuals)
        factors = np.geomspace(*factor_range(spreads), 256).astype(np.float32)
        residuals /= spreads[:, None]
        positive, unit = LEVELS[nbits]
        scale = np.float32(unit) * deviations(residuals)
        return cls(rotation, whole, steps, scale, level_sets(positive), None, factors)

    def rotate(self, values: Array) -> F32:
        """Tokens or query tokens (N, D) as the codec sees them, float32 (N, D)."""
        return np.ascontiguousarray(values, np.float32) @ self.rotation

    def encode(self, values: Array, *, threads: int = 0) -> Codes:
        """Tokens (N, D), finite floats of any type. Raises ValueError otherwise.

        A token's code does not depend on the tokens beside it."""
        values = checked(values, self.dim)
        codes = np.empty(len(values), np.uint16)
        packed = np.empty((len(values), kernels.packed_bytes(self.dim, self.nbits)), np.uint8)
        factor = np.empty(len(values), np.uint8)
        for first in range(0, len(values), BLOCK):
            part = slice(first, first + BLOCK)
            rotated = self.rotate(values[part])
            codes[part] = self.cells.assign(rotated, threads=threads)
            packed[part], factor[part] = self._residuals(rotated, codes[part], threads)
        return Codes(codes, packed, factor)

    def _residuals(
        self, rotated: F32, codes: npt.NDArray[np.uint16], threads: int
    ) -> tuple[Array, Array]:
        """Packed levels and factor bytes of rotated tokens (n, D)."""
        packed, best = kernels.quantise(
            rotated,
            self.centroids,
            codes,
            self.scale,
            self.boundaries,
            self.levels,
            np.asarray(STRETCHES[self.nbits], np.float32),
            along=ALONG,
            threads=threads,
        )
        middles = np.sqrt(self.factors[1:] * self.factors[:-1])
        return packed, np.searchsorted(middles, best).astype(np.uint8)

    def decode(self, encoded: Codes, *, threads: int = 0) -> F32:
        """The tokens as the index knows them, (N, D) float32, in the caller's space.

        Raises ValueError where a code or an array does not fit this codec."""
        rotated = kernels.reconstruct(
            encoded.codes,
            encoded.packed,
            self.centroids,
            self.scale,
            self.levels,
            self.factors[encoded.factor],
            threads=threads,
        )
        return np.asarray(rotated @ self.rotation.T, np.float32)

    def arrays(self) -> dict[str, Array]:
        """All of it, for safetensors."""
        return {
            "rotation": self.rotation,
            "centroids": self.whole,
            "steps": self.steps,
            "scale": self.scale,
            "levels": self.levels,
            "factors": self.factors,
            **({} if self.boundaries is None else {"boundaries": self.boundaries}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Codec:
        """The codec that gave these `arrays`; further keys are left alone.

        Raises ValueError that names what is missing, misshapen or impossible."""
        missing = [name for name in ARRAYS if name not in arrays]
        if missing:
            raise ValueError(f"codec lacks {missing}; it has {sorted(arrays)}")
        rotation = _array(arrays, "rotation", np.float32, (None, None))
        dim = len(rotation)
        if not dim or rotation.shape != (dim, dim):
            raise ValueError(f"codec: rotation is {rotation.shape}; wanted a square matrix")
        whole = _array(arrays, "centroids", np.int8, (None, dim))
        if not 1 <= len(whole) <= MOST:
            raise ValueError(f"codec: has {len(whole)} centroids; wanted 1 to {MOST}")
        steps = _array(arrays, "steps", np.float32, (len(whole),))
        scale = _array(arrays, "scale", np.float32, (dim,))
        levels, boundaries = _levels(arrays)
        factors = _array(arrays, "factors", np.float32, (256,))
        probe = np.cos(np.arange(dim, dtype=np.float64))  # turning must not change a length
        length = np.linalg.norm(probe)
        if abs(np.linalg.norm(probe @ rotation) - length) > 1e-3 * length:
            raise ValueError("codec: rotation is not orthogonal")
        for name, array in (("steps", steps), ("scale", scale), ("factors", factors)):
            if not (array > 0).all():
                raise ValueError(f"codec: {name} must be above 0")
        _rises("factors", factors)
        return cls(rotation, whole, steps, scale, levels, boundaries, factors)


def default_centroids(tokens: int, sampled: int | None = None) -> int:
    """Centroids for a collection of `tokens`, of which `sampled` are there to train with.

    16 sqrt(tokens) rounded to a power of two; for small collections about eight tokens each, so
    that the centroids do not outweigh what they save."""
    wanted = 16 * np.sqrt(max(tokens, 1))
    limit = max(FEWEST, min(tokens, tokens if sampled is None else sampled) // 8)
    count = 1 << round(float(np.log2(max(FEWEST, min(wanted, limit, MOST)))))
    return max(1, min(count, MOST, tokens if sampled is None else sampled))


def sample_size(tokens: int, dim: int) -> int:
    """How many of a collection's `tokens` of width `dim` a build should draw to train with."""
    return min(tokens, default_centroids(tokens) * PER_CENTROID, SAMPLE_BYTES // (4 * dim))


def rotate_at_random(dim: int, seed: int) -> F32:
    """A random orthogonal matrix (dim, dim)."""
    noise = np.random.default_rng(seed).standard_normal((dim, dim))
    turned, triangle = np.linalg.qr(noise)
    return np.ascontiguousarray(turned * np.sign(np.diag(triangle)), np.float32)


def _rotated(points: Array, rotation: F32, overwrite: bool) -> Array:
    """points (n, D) @ rotation in the points' own type, or over them, block by block."""
    out = points if overwrite else np.empty_like(points)
    for first in range(0, len(points), BLOCK):
        part = slice(first, first + BLOCK)
        out[part] = points[part].astype(np.float32) @ rotation
    return out


def spread(residuals: F32) -> F32:
    """Root of the mean square of each row, (n,), never 0."""
    squares = np.einsum("nd,nd->n", residuals, residuals) / np.float32(residuals.shape[1])
    return np.maximum(np.sqrt(squares), np.float32(1e-9))


def factor_range(spreads: F32) -> tuple[float, float]:
    """The smallest and largest factor that a byte can say: those of nearly all tokens of the
    sample, with room for tokens that the sample has none of. 256 steps over a ratio of 50 are 1.5 %
    each; a factor is off by 0.4 % then, an error far below that of the levels."""
    low, high = np.quantile(spreads, [0.001, 0.999])
    high = max(1.5 * float(high), 1e-6)
    return max(0.5 * float(low), high / 50), high


def deviations(residuals: F32) -> F32:
    """Root of the mean square of each dimension of residuals (n, D), (D,), never 0."""
    squares = np.einsum("nd,nd->d", residuals, residuals) / np.float32(len(residuals))
    found = np.sqrt(squares)
    return np.maximum(found, max(1e-3 * float(found.max()), 1e-6)).astype(np.float32)


def level_sets(positive: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """The two sets of levels of a trellis code, int8 (2, n), out of all its positive levels (n,):
    every second one, beginning with the lowest, and the others."""
    whole = np.asarray(positive, np.int8)
    both = np.concatenate([-whole[::-1], whole])
    return np.ascontiguousarray(both.reshape(-1, 2).T)


HIGHEST = 65_504  # of a value, as float16 has it


def checked(values: Array, dim: int | None) -> Array:
    """`values` as an array (N, D) of floats that a half can hold, or ValueError."""
    values = np.asarray(values)
    if values.ndim != 2 or values.dtype.kind != "f":
        raise ValueError(f"tokens are {values.dtype} {values.shape}; wanted floats (N, D)")
    if not values.shape[1] or (dim is not None and values.shape[1] != dim):
        raise ValueError(f"tokens are {values.shape[1]} wide; this codec is for {dim or 'more'}")
    fits = np.isfinite(values).all(axis=1)
    fits &= (values.max(axis=1) <= HIGHEST) & (values.min(axis=1) >= -HIGHEST)
    if not fits.all():
        raise ValueError(
            f"token {int(fits.argmin())} has NaN, infinite or huge values ({int((~fits).sum())} such "
            f"tokens); wanted at most {HIGHEST:,}"
        )
    return values


def _levels(arrays: Mapping[str, Array]) -> tuple[npt.NDArray[np.int8], F32 | None]:
    """levels and boundaries of either code, checked."""
    plain = np.ndim(arrays["levels"]) == 1
    levels = _array(arrays, "levels", np.int8, (None,) if plain else (2, None))
    row = levels.shape[-1]
    if row not in (2, 4, 16):
        raise ValueError(f"codec: has {row} levels; wanted 2, 4 or 16")
    rising = levels.T.ravel().astype(np.int64)
    _rises("levels", rising)
    if rising[-1] - rising[0] > kernels.LEVEL_LIMIT * 2:
        raise ValueError(
            f"codec: levels from {rising[0]} to {rising[-1]}; wanted within +-{kernels.LEVEL_LIMIT}"
        )
    if not plain:
        return levels, None
    if "boundaries" not in arrays:
        raise ValueError("codec lacks ['boundaries'], which a plain code has")
    boundaries = _array(arrays, "boundaries", np.float32, (row - 1,))
    _rises("boundaries", boundaries)
    return levels, boundaries


def _rises(name: str, array: Array) -> None:
    if not (array[1:] > array[:-1]).all():
        raise ValueError(f"codec: {name} must rise")


def _array(
    arrays: Mapping[str, Array], name: str, kind: Any, shape: tuple[int | None, ...]
) -> Array:
    array = np.asarray(arrays[name])
    fits = array.ndim == len(shape) and all(
        wanted is None or wanted == got for wanted, got in zip(shape, array.shape, strict=True)
    )
    if array.dtype != kind or not fits:
        wanted = ", ".join("any" if size is None else str(size) for size in shape)
        raise ValueError(
            f"codec: {name} is {array.dtype} {array.shape}; wanted {np.dtype(kind)} ({wanted})"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"codec: {name} has NaN or infinite values")
    return np.ascontiguousarray(array)
