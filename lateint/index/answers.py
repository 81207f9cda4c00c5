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

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that `json.dumps` takes."""
        return {**asdict(self), "keys": list(self.keys)}
