"""Kind "residual": tokens as a centroid's number and a few bits per dimension, with inverted lists.

codes     u16 (N,)            the centroid of each token
packed    u8 (N, D nbits / 8) its residual
factor    u8 (N,)             the residual's length, see codec.py
lists     u32 (M,)            positions of the documents with a token at centroid 0, then 1, ...
starts    i64 (K + 1,)        where the list of each centroid begins in `lists`
originals f16 (N, D)          the tokens as they came, if they are kept
fde       i8 (B, size)        a vector of each document, if they are kept (fde.py)
fde_steps f32 (B,)            its unit
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lateint.index import kernels
from lateint.index.codec import Codes
from lateint.index.codecfile import CodecFile
from lateint.index.errors import IndexCorrupt
from lateint.index.kernels import Query
from lateint.index.kinds import frame, half_scores, join, not_finite, sound, token_rows
from lateint.index.search.exact import Scores
from lateint.index.segments import Arrays, SegmentFile
from lateint.index.tokens import FloatArray, IntArray, Tokens


class ResidualSegment:
    """Documents compressed with one codec. See `kinds.Segment`."""

    kind = "residual"

    def __init__(self, file: SegmentFile, width: int, codec: CodecFile | None) -> None:
        if codec is None:
            raise IndexCorrupt(
                f"{file.path}: is compressed, but the manifest names no codec for it"
            )
        self.file = file
        self.codec: CodecFile = codec
        self.documents, self.offsets = frame(file)
        tokens = int(self.offsets[-1])
        file.expect("codes", np.uint16, tokens)
        file.expect("packed", np.uint8, tokens, kernels.packed_bytes(width, codec.nbits))
        file.expect("factor", np.uint8, tokens)
        file.expect("starts", np.int64, codec.centroids + 1)
        file.expect("lists", np.uint32, *file.shape("lists")[:1])
        if "originals" in file:
            file.expect("originals", np.float16, tokens, width)
        if "fde" in file:
            file.expect("fde", np.int8, len(self.documents), *file.shape("fde")[1:2])
            file.expect("fde_steps", np.float32, len(self.documents))
        # Factors as the kernels want them, of the documents that were scored so far. Memory is
        # taken only where something is written.
        self._factors = np.zeros(tokens, np.float32)
        self._filled = np.zeros(len(self.documents), bool)

    @staticmethod
    def pack(
        documents: IntArray,
        offsets: IntArray,
        codes: Codes,
        originals: FloatArray | None,
    ) -> Arrays:
        """The arrays of a run of documents, for `joined`."""
        arrays: Arrays = {
            "documents": documents,
            "offsets": offsets,
            "codes": codes.codes,
            "packed": codes.packed,
            "factor": codes.factor,
        }
        return arrays if originals is None else {**arrays, "originals": originals}

    @staticmethod
    def bytes_per_token(width: int, nbits: int, originals: bool) -> int:
        """Code, factor, residual and list entry, and the original."""
        return 3 + kernels.packed_bytes(width, nbits) + 4 + (2 * width if originals else 0)

    @property
    def exact(self) -> bool:
        return "originals" in self.file

    def half(self, queries: Tokens, positions: IntArray | None, threads: int) -> Scores:
        return half_scores(self, "originals", queries, positions, threads)

    def score(self, query: Query, positions: IntArray | None, threads: int) -> Scores:
        """MaxSim of the query with the compressed documents at `positions` (None: all), (n,)."""
        codes, packed = (self._touched(name, positions) for name in ("codes", "packed"))
        with sound(self.file):
            scores: Scores = kernels.score(
                query,
                codes,
                packed,
                self.offsets,
                positions,
                self.codec.codec.levels,
                self._factor(positions),
                threads=threads,
            )
        return scores

    def score_tokens(self, query: Query, position: int) -> Scores:
        """Similarity of each query token with each token of one document, (T, Ld)."""
        first, last = self.offsets[position : position + 2].tolist()
        codes, packed = (self.file.read(name, first, last) for name in ("codes", "packed"))
        factor = self._factor(np.asarray([position]))[first:last]
        with sound(self.file):
            scores: Scores = kernels.score_tokens(
                query, codes, packed, self.codec.codec.levels, factor
            )
        return scores

    def scan(
        self, tables: list[kernels.Table], positions: IntArray | None, threads: int
    ) -> IntArray:
        """Sums of centroid scores in steps of each table, u32 (tables, n)."""
        codes = self._touched("codes", positions)
        with sound(self.file):
            return kernels.scan_many(
                [table.bytes for table in tables], codes, self.offsets, positions, threads=threads
            )

    def probe(self, cells: IntArray) -> IntArray:
        """Positions of the documents that have a token at one of these centroids, ascending."""
        starts: IntArray = self.file.read("starts")
        lists = self.file.touch("lists", starts[cells], starts[cells + 1])
        with sound(self.file):
            return kernels.probe(starts, lists, cells.astype(np.uint32), len(self.documents))

    def rows(self, rows: IntArray) -> FloatArray:
        if self.exact:
            values: FloatArray = self.file.touch("originals", rows, rows + 1)[rows]
            return values
        names = ("codes", "packed", "factor")
        codes, packed, factor = (self.file.touch(n, rows, rows + 1)[rows] for n in names)
        with sound(self.file):
            return self.codec.codec.decode(Codes(codes, packed, factor))

    def taken(self, positions: IntArray) -> Arrays:
        rows, offsets = token_rows(self, positions)
        names = ["codes", "packed", "factor", *(["originals"] if self.exact else [])]
        each = ["fde", "fde_steps"] if "fde" in self.file else []
        return {
            "documents": self.documents[positions],
            "offsets": offsets,
            **{name: self.file.read(name)[positions] for name in each},
            **{name: self.file.touch(name, rows, rows + 1)[rows] for name in names},
        }

    @staticmethod
    def joined(parts: Sequence[Arrays], codec: CodecFile | None) -> Arrays:
        assert codec is not None
        arrays = join(parts)
        starts, lists = inverted(arrays["codes"], arrays["offsets"], codec.centroids)
        return {**arrays, "starts": starts, "lists": lists}

    def check(self) -> Iterator[str]:
        path, codes = self.file.path, self.file.read("codes")
        if int(codes.max()) >= self.codec.centroids:
            yield f"{path}: names centroid {codes.max()} of {self.codec.centroids}"
            return
        starts, lists = inverted(codes, self.offsets, self.codec.centroids)
        if not (
            np.array_equal(starts, self.file.read("starts"))
            and np.array_equal(lists, self.file.read("lists"))
        ):
            yield f"{path}: its inverted lists do not agree with its codes"
        if self.exact:
            yield from not_finite(self.file, "originals")
        if "fde" in self.file:
            yield from not_finite(self.file, "fde_steps")

    def _factor(self, positions: IntArray | None) -> npt.NDArray[np.float32]:
        """(N,), right for the tokens of the documents at `positions`."""
        new = np.arange(len(self._filled)) if positions is None else positions
        new = new[~self._filled[new]]
        if len(new):
            rows, _ = token_rows(self, new)
            self._factors[rows] = self.codec.codec.factors[self._touched("factor", new)[rows]]
            self._filled[new] = True
        return self._factors

    def _touched(self, name: str, positions: IntArray | None) -> FloatArray:
        if positions is None:
            return self.file.read(name)
        return self.file.touch(name, self.offsets[positions], self.offsets[positions + 1])


def inverted(
    codes: npt.NDArray[np.uint16], offsets: IntArray, centroids: int
) -> tuple[IntArray, npt.NDArray[np.uint32]]:
    """(starts i64 (K + 1,), lists u32): for each centroid the documents that have it, ascending."""
    documents = np.repeat(np.arange(len(offsets) - 1, dtype=np.uint32), np.diff(offsets))
    order = np.argsort(codes, kind="stable")  # a radix sort: documents stay in order
    codes, documents = codes[order], documents[order]
    new = np.ones(len(codes), bool)
    new[1:] = (codes[1:] != codes[:-1]) | (documents[1:] != documents[:-1])
    counts = np.bincount(codes[new], minlength=centroids)
    starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return starts, documents[new]
