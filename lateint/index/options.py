"""What the maker of an index decides once: how its tokens are kept. Stored in the manifest."""

from __future__ import annotations

from dataclasses import dataclass

from lateint.index.errors import IndexMismatch
from lateint.index.fde import Fde

WIDEST = 4096  # of float16 tokens
NARROWEST_CODED, WIDEST_CODED = 32, 1024  # of compressed ones
NBITS = (1, 2, 4, 16)
MOST_CENTROIDS = 65_536  # a code is 16 bits
LEAST_MEMORY = 64 << 20


@dataclass(frozen=True)
class Options:
    """nbits: bits per dimension of a token beside its centroid: 4 (half a byte), 2, 1, or 16, which
    is float16 and no centroids: exact. Larger: better scores, more bytes.
    keep_originals: also keep the float16 tokens of compressed documents, to rescore the best hits
    exactly and to train again without loss; 2 bytes per dimension more.
    centroids: how many; None chooses by the size of the collection when the codec is trained.
    Larger: shorter residuals and fewer candidates needed, slower queries and building.
    prefix: keep only the first so many dimensions of a token (Matryoshka models put what matters
    first), at the token's length; None keeps all. Smaller: fewer bytes, worse scores.
    pool_factor: each document keeps about one token in so many, means of clusters of its tokens; 1
    keeps all. Larger: fewer bytes and faster, worse scores.
    seed: of all that is drawn at random; the same seed and documents give the same files.
    memory: bytes that building may take beside the documents that the caller holds. Larger: a
    better sample for the centroids, and fewer, larger commits.
    fde: keep a vector of each compressed document, for candidates in mode "fde" (see fde.py); None
    keeps none.
    """

    nbits: int = 4
    keep_originals: bool = False
    centroids: int | None = None
    prefix: int | None = None
    pool_factor: int = 1
    seed: int = 0
    memory: int = 1 << 30
    fde: Fde | None = None

    def __post_init__(self) -> None:
        if isinstance(self.fde, dict):  # out of the manifest
            object.__setattr__(self, "fde", Fde(**self.fde))

    @property
    def coded(self) -> bool:
        """Whether documents are compressed once there are enough to train a codec on."""
        return self.nbits != 16

    def width(self, dim: int) -> int:
        """Dimensions kept of tokens that are `dim` wide."""
        return self.prefix or dim


def check_options(dim: int, nbits: int | None, **others: object) -> Options:
    """Options for tokens `dim` wide; nbits None: 4 where a codec takes this width, else 16.

    Raises IndexMismatch for a width that these options cannot keep, ValueError for the rest.
    """
    _whole("dim", dim, 1, WIDEST, IndexMismatch)
    prefix = others["prefix"]
    if prefix is not None:
        _whole("prefix", prefix, 1, dim, IndexMismatch)
    width = prefix if isinstance(prefix, int) else dim
    fits = NARROWEST_CODED <= width <= WIDEST_CODED
    if nbits is None:
        nbits = 4 if fits else 16
    if isinstance(nbits, bool) or nbits not in NBITS:
        raise ValueError(f"nbits: got {nbits!r}; wanted 4, 2, 1, or 16 (float16, exact)")
    if nbits != 16 and not fits:
        raise IndexMismatch(
            f"nbits={nbits} takes tokens {NARROWEST_CODED} to {WIDEST_CODED} wide, these are "
            f"{width}; keep them as float16 (nbits=16) or, if they are wider, use prefix="
        )
    if nbits == 16 and (others["keep_originals"] or others["centroids"] is not None):
        raise ValueError("keep_originals and centroids: only for compressed tokens (nbits 4, 2, 1)")
    others["fde"] = _fde(others["fde"], width)
    if nbits == 16 and others["fde"]:
        raise ValueError("fde: only for compressed tokens (nbits 4, 2, 1); float16 is scored whole")
    if others["centroids"] is not None:
        _whole("centroids", others["centroids"], 16, MOST_CENTROIDS, ValueError)
    _whole("pool_factor", others["pool_factor"], 1, 1000, ValueError)
    _whole("seed", others["seed"], 0, 2**63 - 1, ValueError)
    _whole("memory", others["memory"], LEAST_MEMORY, 1 << 60, ValueError)
    return Options(nbits=nbits, **others)  # type: ignore[arg-type]


def _fde(given: object, width: int) -> Fde | None:
    """True: the default settings; a dictionary: these settings."""
    if given is None or given is False:
        return None
    if given is True:
        given = {}
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"fde: got {given!r:.100}; wanted True or settings, as {{'bits': 5}}")
    try:
        return Fde(width, **given)
    except TypeError as error:
        raise ValueError(
            f"fde: {error}; settings: repetitions, bits, projection, final, seed"
        ) from None


def _whole(name: str, value: object, low: int, high: int, error: type[ValueError]) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise error(f"{name}: got {value!r}; wanted a whole number from {low} to {high}")
