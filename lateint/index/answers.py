"""What an index answers with. Plain values: no arrays, no files."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Hit:
    """A document found: its MaxSim score (higher is better) and the metadata it was added with."""

    id: str
    score: float
    metadata: dict[str, Any]


@dataclass(frozen=True)
class Recall:
    """Share of the exact k best that a search found, mean over `queries`. against: "originals"
    (float16 tokens), or "reconstructed tokens" where the index keeps only compressed ones."""

    value: float
    k: int
    queries: int
    against: str


@dataclass(frozen=True)
class IndexInfo:
    """What an index holds, in the snapshot that is open."""

    path: str
    format: int
    kind: str
    dim: int
    model: str | None
    commit: int
    documents: int
    tokens: int
    deleted: int  # documents deleted, still in segments until compact()
    segments: int
    bytes: int  # of all files on the disk
    keys: tuple[str, ...]  # metadata keys that `where` and `group_by` may name
    parts: dict[str, int]  # bytes by what they hold: codes, packed, lists, ..., database
    nbits: int  # of documents once they are compressed; 16: never
    keep_originals: bool
    prefix: int | None
    pool_factor: int
    seed: int
    codecs: int
    centroids: int  # of the present codec; 0: none yet
    energy: float | None  # mean squared length of the residuals that it was trained on
    drift: float | None  # of the residuals added since, in units of that; see Index.train
    kernels: str  # instruction set of the native kernels, or "numpy"

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that `json.dumps` takes."""
        return {**asdict(self), "keys": list(self.keys)}
