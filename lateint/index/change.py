"""`Change`: what one commit does to an index, as SQLite rows and new segment files.

`Storage.transaction` makes it, and commits or undoes it; nothing here is seen by readers before.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lateint.index.codec import Codec
from lateint.index.codecfile import CodecFile
from lateint.index.manifest import Manifest, insert_row
from lateint.index.segments import Arrays, Checksums, SegmentFile, write_segment
from lateint.index.tokens import IntArray

if TYPE_CHECKING:
    from lateint.index.storage import Storage


class Change:
    """What one transaction does; `manifest` is the state it leads to."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self._storage = storage
        self._db = storage._db
        self.catalog = storage.catalog
        self.manifest = manifest
        self.written: list[Path] = []

    def add_segment(self, kind: str, arrays: Arrays, codec: CodecFile | None = None) -> None:
        """Writes a segment with these arrays (its documents' numbers ascending) and names it."""
        number = self.manifest.next_segment
        sums = self._write(self._storage.segment_path(number), arrays)
        documents, offsets = arrays["documents"], arrays["offsets"]
        row = (
            number,
            kind,
            codec.number if codec else None,
            len(documents),
            int(offsets[-1]),
            int(documents[0]),
            int(documents[-1]),
            *sums,
        )
        insert_row(self._db, "segments", row)
        self.manifest = replace(self.manifest, next_segment=number + 1)

    def add_codec(self, codec: Codec, tokens: int, energy: float) -> CodecFile:
        """Writes a codec, names it, and makes it that of documents to come. See CodecFile."""
        number = self.manifest.next_codec
        path = self._storage.codec_path(number)
        sums = self._write(path, codec.arrays())
        facts = (number, codec.nbits, len(codec.centroids), tokens, energy)
        insert_row(self._db, "codecs", (*facts, *sums))
        self.manifest = replace(
            self.manifest, codec=number, next_codec=number + 1, fresh_tokens=0, fresh_energy=0.0
        )
        return CodecFile(*facts, SegmentFile(path, Checksums(*sums)))

    def _write(self, path: Path, arrays: Arrays) -> tuple[int, int, bytes]:
        self.written.append(path)
        sums = write_segment(path, arrays)
        return sums.size, sums.block, sums.blocks

    def drop_codecs(self) -> None:
        """Forgets codecs that neither a segment nor documents to come use."""
        self._db.execute(
            "DELETE FROM codecs WHERE number != ? AND number NOT IN "
            "(SELECT codec FROM segments WHERE codec IS NOT NULL)",
            (self.manifest.codec,),
        )

    def new_numbers(self, count: int) -> IntArray:
        """Numbers for `count` new documents, ascending."""
        start = self.manifest.next_document
        self.manifest = replace(self.manifest, next_document=start + count)
        return np.arange(start, start + count, dtype=np.int64)

    def drop_segment(self, number: int, first: int, last: int) -> None:
        """Forgets a segment and the tombstones in it; its file goes once the commit stands."""
        self._db.execute("DELETE FROM segments WHERE number = ?", (number,))
        self._db.execute("DELETE FROM tombstones WHERE doc BETWEEN ? AND ?", (first, last))

    def reset(self, manifest: Manifest) -> None:
        """Empties everything; numbers go on where they were."""
        self.catalog.lexical.clear()
        for table in ("segments", "codecs", "documents", "texts", "tombstones", "keys"):
            self._db.execute(f"DELETE FROM {table}")
        self.manifest = replace(
            manifest,
            commit=self.manifest.commit,
            next_document=self.manifest.next_document,
            next_segment=self.manifest.next_segment,
            next_codec=self.manifest.next_codec,
        )

    def count(self, documents: int, tokens: int) -> None:
        """Adds to the counts of live documents and tokens (negative: removed)."""
        old = self.manifest
        self.manifest = replace(
            old, documents=old.documents + documents, tokens=old.tokens + tokens
        )
