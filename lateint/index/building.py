"""How documents become segments: as float16 while they are few, compressed once a codec is trained.

Small collections stay exact: below TRAIN_TOKENS a codec would save a few megabytes and cost answers.
The addition that crosses it trains a codec on a seeded sample of all that is there, and compresses
all of it, in its own commit. Later additions are compressed with that codec. Knows no ids.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lateint.index.change import Change
from lateint.index.codec import Codec, default_centroids, sample_size
from lateint.index.codecfile import CodecFile
from lateint.index.fde import to_bytes
from lateint.index.kinds import HalfSegment, token_rows
from lateint.index.options import Options
from lateint.index.residual import ResidualSegment
from lateint.index.search.exact import blocks
from lateint.index.segments import Arrays
from lateint.index.snapshot import Part, Selection, Snapshot
from lateint.index.storage import KINDS
from lateint.index.tokens import FloatArray, IntArray, Tokens, to_half

TRAIN_TOKENS = 1 << 16  # 16 MB of float16 at 128 dimensions, scored exactly in some milliseconds;
# fewer would train centroids that the collection outgrows at once
BUILD_TOKENS = 1 << 20  # that a build gathers first: the first documents may not be like the rest
GUESS = 4  # a build that has more to come is taken to become so many times as large
SEGMENT_BYTES = 64 << 20  # of tokens per segment: larger is fewer files, and more memory to write
MEASURED = 4096  # tokens of which the residuals are measured
DRIFTED = 1.5  # times the codec's own energy, over TRAIN_TOKENS new tokens: a new codec is trained
OUTGROWN = 16  # times the tokens that the codec was trained for: four times the centroids are due


class SegmentWriter:
    """Collects documents and writes segments of at most `limit` tokens (one document may be more).

    codec None: they are kept as float16."""

    def __init__(self, change: Change, codec: CodecFile | None) -> None:
        self._change = change
        self._codec = codec
        self._kind = "residual" if codec else "fp16"
        self.limit = segment_tokens(change.manifest.options, change.manifest.width, codec)
        self._held: list[Arrays] = []
        self._size = 0

    def add(self, documents: IntArray, tokens: Tokens) -> None:
        """Documents by their numbers (ascending, above those before), to be encoded here."""
        originals = self._change.manifest.options.keep_originals
        for first, last in blocks(tokens.lengths, self._piece):
            some = tokens.slice(first, last)
            if self._codec is None:
                self.add_arrays(HalfSegment.pack(documents[first:last], some))
                continue
            codes = self._codec.codec.encode(some.values)
            kept = to_half(some, "document").values if originals else None
            arrays = ResidualSegment.pack(documents[first:last], some.offsets, codes, kept)
            if fde := self._change.manifest.options.fde:
                arrays["fde"], arrays["fde_steps"] = to_bytes(fde.encode_documents(some))
            self.add_arrays(arrays)

    def add_part(self, part: Part) -> None:
        """The documents of a part, as they lie in a segment of the same kind and codec."""
        positions = part.all_positions
        lengths = np.diff(part.segment.offsets)[positions]
        for first, last in blocks(lengths, self._piece):
            self.add_arrays(part.segment.taken(positions[first:last]))

    def add_decoded(self, part: Part) -> None:
        """The documents of a part, encoded again from what its segment keeps of them."""
        positions = part.all_positions
        lengths = np.diff(part.segment.offsets)[positions]
        for first, last in blocks(lengths, self._piece):
            rows, offsets = token_rows(part.segment, positions[first:last])
            documents = part.segment.documents[positions[first:last]]
            self.add(documents, Tokens(part.segment.rows(rows), offsets))

    def add_arrays(self, arrays: Arrays) -> None:
        count = int(arrays["offsets"][-1])
        if self._size + count > self.limit:
            self.flush()
        self._held.append(arrays)
        self._size += count

    def flush(self) -> None:
        """Writes what is left."""
        if self._held:
            arrays = KINDS[self._kind].joined(self._held, self._codec)
            self._held = []
            self._size = 0
            self._change.add_segment(self._kind, arrays, self._codec)

    @property
    def _piece(self) -> int:
        return max(1, self.limit // 8)


def segment_tokens(options: Options, width: int, codec: CodecFile | None) -> int:
    """Most tokens in a segment of more than one document."""
    if codec is None:
        return max(1, SEGMENT_BYTES // HalfSegment.bytes_per_token(width))
    each = ResidualSegment.bytes_per_token(width, codec.nbits, options.keep_originals)
    return max(1, SEGMENT_BYTES // each)


def write_documents(
    change: Change,
    snapshot: Snapshot,
    live: Selection,
    documents: IntArray,
    tokens: Tokens,
    *,
    least: int,
    more: bool,
) -> None:
    """Writes new documents (numbers, float16 tokens) in segments of the kind that is due.

    live: what of the snapshot stays. least: tokens from which on a codec is trained. more: whether
    this is the middle of a build.
    """
    codec = snapshot.codec
    held = sum(part.tokens for part in live.parts)
    total = held + len(tokens.values)
    if change.manifest.options.coded:
        if codec is None and total >= least:
            codec = train(change, live, tokens, total * GUESS if more else total)
            rewrite(change, snapshot, live, codec)
        elif codec is not None:
            codec = _followed(change, codec, live, tokens, total)
    writer = SegmentWriter(change, codec)
    writer.add(documents, tokens)
    writer.flush()


def train(change: Change, live: Selection, tokens: Tokens | None, expected: int) -> CodecFile:
    """A new codec for a collection of `expected` tokens, from a sample of what is there and of
    `tokens`; documents to come will be encoded with it."""
    options, width = change.manifest.options, change.manifest.width
    total = sum(part.tokens for part in live.parts) + (len(tokens.values) if tokens else 0)
    held_out = min(MEASURED, total // 16)  # tokens that the centroids have not seen
    wanted = min(
        sample_size(max(expected, total), width),
        options.memory // (8 * 4 * width),
        total - held_out,
    )
    chosen = _spread(total, wanted, options.seed)
    points = _gather(live, tokens, chosen)
    count = options.centroids or default_centroids(expected, len(points))
    codec = Codec.train(
        points,
        nbits=options.nbits,
        centroids=min(count, len(points)),
        seed=options.seed,
        overwrite=True,  # `_gather` has made it
    )
    del points
    others = np.setdiff1d(_spread(total, held_out + MEASURED, options.seed + 1), chosen)
    measured = _gather(live, tokens, others[:MEASURED] if len(others) > 64 else chosen[:MEASURED])
    return change.add_codec(codec, expected, _energy(codec, measured))


def rewrite(change: Change, snapshot: Snapshot, live: Selection, codec: CodecFile) -> None:
    """Replaces all segments by ones of this codec, without deleted documents."""
    for number, segment in snapshot.segments.items():
        change.drop_segment(number, int(segment.documents[0]), int(segment.documents[-1]))
    writer = SegmentWriter(change, codec)
    for part in live.parts:
        writer.add_decoded(part)
    writer.flush()


def drift(snapshot: Snapshot) -> float | None:
    """Mean energy of the residuals of documents added since the codec was trained, in units of
    what it was then: 1 is as good as new. None: no codec, or nothing added."""
    manifest, codec = snapshot.manifest, snapshot.codec
    if codec is None or not manifest.fresh_tokens:
        return None
    return manifest.fresh_energy / manifest.fresh_tokens / max(codec.energy, 1e-9)


def _followed(
    change: Change, codec: CodecFile, live: Selection, tokens: Tokens, total: int
) -> CodecFile:
    """The codec for new tokens: the present one, or where they have drifted away from it, or the
    collection has outgrown it, a new one for what comes from now on."""
    count = len(tokens.values)
    energy = _energy(codec.codec, tokens.values[_spread(count, min(count, MEASURED), 0)])
    manifest = change.manifest
    fresh = manifest.fresh_tokens + count
    spent = manifest.fresh_energy + energy * count
    change.manifest = replace(manifest, fresh_tokens=fresh, fresh_energy=spent)
    drifted = fresh >= TRAIN_TOKENS and spent / fresh > DRIFTED * codec.energy
    if drifted or total > OUTGROWN * codec.tokens:
        return train(change, live, tokens, total)
    return codec


def _spread(total: int, count: int, seed: int) -> IntArray:
    """About `count` of 0 .. total - 1, one at random from each of `count` equal stretches."""
    if count >= total:
        return np.arange(total)
    places = (np.arange(count) + np.random.default_rng(seed).random(count)) * (total / count)
    return np.unique(np.minimum(places.astype(np.int64), total - 1))


def _gather(live: Selection, tokens: Tokens | None, chosen: IntArray) -> FloatArray:
    """Tokens by their place among all live ones and then `tokens`, (n, width) float16 or 32."""
    found: list[FloatArray] = []
    start = 0
    for part in live.parts:
        inside = chosen[
            np.searchsorted(chosen, start) : np.searchsorted(chosen, start + part.tokens)
        ]
        if part.positions is None:
            rows = inside - start
        else:
            rows = token_rows(part.segment, part.positions)[0][inside - start]
        if len(rows):
            found.append(part.segment.rows(rows))
        start += part.tokens
    if tokens is not None:
        found.append(tokens.values[chosen[np.searchsorted(chosen, start) :] - start])
    return np.concatenate(found)


def _energy(codec: Codec, tokens: FloatArray) -> float:
    """Mean squared length of what the centroids leave of these tokens."""
    rotated = codec.rotate(tokens)
    left = rotated - codec.centroids[codec.encode(tokens).codes]
    return float(np.einsum("nd,nd->", left, left)) / max(len(tokens), 1)
