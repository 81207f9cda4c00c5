"""Hits, and why they matched: which word of the query met which word of the document, and where on the
page, or when in the recording.

MaxSim is a sum over query tokens, so each token's share of the score is exact, not an estimate.
This module knows scores, labels, boxes and seconds; it runs no model and reads no index.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lateint.index import Hit as IndexHit

if TYPE_CHECKING:
    from modalities.pdf import Word

Box = tuple[float, float, float, float]
Seconds = tuple[float, float]
Floats = npt.NDArray[np.float32]

WHOLE = 0.5  # a box of this share of the page says nothing about where
MOST_WORDS = 4  # of the page's own words at one token: a patch may lie on many


@dataclass(frozen=True)
class Match:
    """A word of the query and what it met.

    word: as in the query; score: its share of the hit's score (the shares of all query tokens,
    markers included, add up to it); box: x0, y0, x1, y1 in fractions of the page, origin top left,
    or None where the document has no places; found: the document's own words there, "" where it
    does not say (a scan, a picture); seconds: in recordings instead of a box, from when to when.
    """

    word: str
    score: float
    box: Box | None = None
    found: str = ""
    seconds: Seconds | None = None

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that `json.dumps` takes; with "seconds" only in recordings."""
        box = None if self.box is None else [round(edge, 4) for edge in self.box]
        said = {"word": self.word, "score": round(self.score, 4), "box": box, "found": self.found}
        if self.seconds is not None:
            said["seconds"] = [round(edge, 3) for edge in self.seconds]
        return said


@dataclass(frozen=True)
class Hit(IndexHit):
    """A document found.

    id, score (MaxSim, higher is better), metadata: as in the index; source: its file; page: the
    page's number from 1, None for what has no pages; words: the query's words by their share of
    the score, best first (empty for pictures and recordings as queries, and where they were not
    asked for).
    """

    source: Path = Path()
    page: int | None = None
    words: tuple[Match, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that `json.dumps` takes."""
        words = [match.to_json() for match in self.words]
        return {**asdict(self), "source": str(self.source), "words": words}


@dataclass(frozen=True)
class Traces:
    """What the tokens of one document stand for.

    boxes: (T, 4) x0, y0, x1, y1 in fractions of the page, or None; kept to 1/65,535 of the page.
    labels: T strings, the document's word at each token ("" where there is none), or None.
    seconds: (T, 2) from when to when in the recording's file, or None; kept to milliseconds.
    """

    boxes: Floats | None = None
    labels: tuple[str, ...] | None = None
    seconds: Floats | None = None

    def to_bytes(self) -> bytes:
        head: list[Any] = [None if self.boxes is None else len(self.boxes), self.labels]
        packed = b""
        if self.boxes is not None:
            packed = np.rint(np.clip(self.boxes, 0, 1) * 65535).astype("<u2").tobytes()
        if self.seconds is not None:
            head.append(len(self.seconds))
            packed += np.rint(self.seconds.astype(np.float64) * 1000).astype("<u4").tobytes()
        text = json.dumps(head, ensure_ascii=True).encode("ascii")
        return zlib.compress(len(text).to_bytes(4, "little") + text + packed, 6)

    @classmethod
    def from_bytes(cls, data: bytes) -> Traces:
        """Raises ValueError or zlib.error for bytes that `to_bytes` did not write."""
        raw = zlib.decompress(data)
        size = int.from_bytes(raw[:4], "little")
        count, labels, *timed = json.loads(raw[4 : 4 + size])
        packed = raw[4 + size :]
        boxes = seconds = None
        if count is not None:
            edges = np.frombuffer(packed, "<u2", count * 4).reshape(count, 4)
            boxes = (edges / 65535).astype(np.float32)
            packed = packed[edges.nbytes :]
        if timed:
            moments = np.frombuffer(packed, "<u4").reshape(timed[0], 2)
            seconds = (moments / 1000).astype(np.float32)
        return cls(boxes, None if labels is None else tuple(labels), seconds)


def words_at(boxes: Floats, words: Sequence[Word]) -> tuple[str, ...]:
    """The text layer's words at each box (T, 4), joined by blanks; "" where there are none.

    A word is at a box where they share at least half of the smaller of the two.
    """
    if not words or not len(boxes):
        return ("",) * len(boxes)
    layer = np.asarray([word.box for word in words], np.float32)
    found = []
    for box in boxes:
        area = float((box[2] - box[0]) * (box[3] - box[1]))
        if area >= WHOLE:
            found.append("")
            continue
        width = np.minimum(box[2], layer[:, 2]) - np.maximum(box[0], layer[:, 0])
        height = np.minimum(box[3], layer[:, 3]) - np.maximum(box[1], layer[:, 1])
        shared = width.clip(0) * height.clip(0)
        smaller = np.minimum(area, (layer[:, 2] - layer[:, 0]) * (layer[:, 3] - layer[:, 1]))
        here = np.flatnonzero((shared > 0) & (shared >= 0.5 * smaller))
        best = np.sort(here[np.argsort(-shared[here], kind="stable")][:MOST_WORDS])
        found.append(" ".join(words[i].text for i in best))
    return tuple(found)


def matches(scores: Floats, labels: Sequence[str], traces: Traces) -> tuple[Match, ...]:
    """The query's words by their share of the score, best first.

    scores: (Lq, Ld) dot products of query and document tokens; labels: Lq strings, one for each
    query token. Pieces of one word (`##ing`) are one match with their sum; markers (`[Q]`) are left
    out. Empty where labels and tokens do not go together (a single-vector head).
    """
    if scores.size == 0 or len(labels) != len(scores):
        return ()
    at, best = scores.argmax(1), scores.max(1)
    merged: list[tuple[str, float, int, float]] = []  # word, its share, document token, best piece
    for label, token, share in zip(labels, at.tolist(), best.tolist(), strict=True):
        if merged and label.startswith("##"):
            word, total, place, strongest = merged[-1]
            stronger = share > strongest
            merged[-1] = (
                word + label[2:],
                total + share,
                token if stronger else place,
                max(share, strongest),
            )
        elif not is_marker(label):
            merged.append((label.strip(), share, token, share))
    tokens = scores.shape[1]
    boxes = traces.boxes if traces.boxes is not None and len(traces.boxes) == tokens else None
    own = traces.labels if traces.labels is not None and len(traces.labels) == tokens else None
    times = traces.seconds if traces.seconds is not None and len(traces.seconds) == tokens else None
    found = [
        Match(
            word,
            share,
            _box(boxes, token),
            "" if own is None else own[token],
            None if times is None else (float(times[token, 0]), float(times[token, 1])),
        )
        for word, share, token, _ in merged
    ]
    return tuple(sorted(found, key=lambda match: -match.score))


def is_marker(label: str) -> bool:
    """`[CLS]`, `<s>`, punctuation: tokens that stand for no word of the query."""
    bare = label.strip()
    bracketed = bare[:1] + bare[-1:] in ("[]", "<>")
    return bracketed or not any(character.isalnum() for character in bare)


def _box(boxes: Floats | None, token: int) -> Box | None:
    if boxes is None:
        return None
    x0, y0, x1, y1 = (float(edge) for edge in boxes[token])
    return None if (x1 - x0) * (y1 - y0) >= WHOLE else (x0, y0, x1, y1)
