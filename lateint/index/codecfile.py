"""A codec in its file: opened with the index, loaded when it is first needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from lateint.index.codec import ARRAYS, PLAIN, Codec
from lateint.index.errors import IndexCorrupt
from lateint.index.segments import SegmentFile


@dataclass(frozen=True, eq=False)
class CodecFile:
    """A codec of the index, by its number; `tokens` and `energy` say what it was trained on: tokens
    of the collection then, and mean squared length of the residuals of tokens like them."""

    number: int
    nbits: int
    centroids: int
    tokens: int
    energy: float
    file: SegmentFile

    @cached_property
    def codec(self) -> Codec:
        """Raises IndexCorrupt where the file does not hold the codec that the manifest names."""
        try:
            names = [name for name in (*ARRAYS, *PLAIN) if name in self.file]
            codec = Codec.from_arrays({name: self.file.read(name) for name in names})
        except ValueError as error:
            raise IndexCorrupt(f"{self.file.path}: {error}") from error
        if (codec.nbits, len(codec.centroids)) != (self.nbits, self.centroids):
            raise IndexCorrupt(
                f"{self.file.path}: holds {len(codec.centroids)} centroids and {codec.nbits} bits, "
                f"the manifest says {self.centroids} and {self.nbits}"
            )
        return codec
