"""Pictures of indexed pages, kept as JPEG files that can be deleted at any time and made again.

Knows names and pixels; which page belongs to a name, and how to render it, is for the collection.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 2000  # pixels of the longer side of a kept picture; larger: sharper, more disk
QUALITY = 80  # of JPEG


class PageCache:
    """A folder with one picture a document; the JPEG comment says of which version it is, so that
    the picture of a page that has changed is never shown."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, document: str) -> Path:
        """Where the picture of a document is, or would be: a hash, as ids hold any characters."""
        key = hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / f"{key[:32]}.jpg"

    def put(self, document: str, version: str, image: Image) -> None:
        """Keep a picture. A disk that refuses is no error: the cache is a convenience."""
        path = self.path(document)
        small = image.convert("RGB")
        small.thumbnail((LONGEST, LONGEST))
        partial = path.with_name(f".{path.stem}.{os.getpid()}")  # a reader never sees half a file
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            small.save(partial, "JPEG", quality=QUALITY, comment=version.encode())
            partial.replace(path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)

    def get(self, document: str, version: str) -> Image | None:
        """The picture of this version of a document, or None."""
        from PIL import Image

        try:
            with Image.open(self.path(document)) as image:
                same = image.info.get("comment") == version.encode()
                return image.convert("RGB") if same else None
        except OSError:
            return None

    def drop(self, documents: Iterable[str]) -> None:
        for document in documents:
            self.path(document).unlink(missing_ok=True)

    def clear(self) -> None:
        """Delete all pictures."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def size(self) -> int:
        """Bytes on the disk."""
        if not self.folder.is_dir():
            return 0
        return sum(entry.stat().st_size for entry in os.scandir(self.folder) if entry.is_file())
