"""A collection's folder: what lies where, how a new one is made, what it says of itself.

collection.sqlite   the ledger of files and documents
index/              their tokens
cache/pages/        pictures of pages, which can go
"""

from __future__ import annotations

import os
import shutil
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lateint.index import Index
from lateint.ingest import Problem
from lateint.ledger import CollectionError, Ledger

if TYPE_CHECKING:
    from lateint.encoding import CollectionModel

LEDGER, INDEX, CACHE = "collection.sqlite", "index", "cache"
DPI = 100

AnyPath = str | os.PathLike[str]


class ModelMismatch(CollectionError):
    """The collection was built with another model, so its tokens and these do not compare."""


@dataclass(frozen=True)
class CollectionInfo:
    """What a collection holds. documents: that can be found; blank: pages with nothing to find."""

    path: str
    files: int
    documents: int
    blank: int
    tokens: int
    index_bytes: int
    cache_bytes: int
    model: str
    fingerprint: str
    dpi: float
    folders: tuple[str, ...] = ()
    metadata_keys: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As a dictionary that `json.dumps` takes."""
        return asdict(self)


def check_place(path: Path, dpi: float, overwrite: bool) -> None:
    """Whether a collection can be made in this folder. Raises CollectionError: see
    `Collection.create`."""
    if not 10 <= dpi <= 1200:
        raise CollectionError(f"dpi: got {dpi!r}; wanted 10 to 1200 (100 suits the shipped model)")
    there = path.is_dir() and any(path.iterdir())
    if (there or path.is_file()) and not (path / LEDGER).is_file():
        raise CollectionError(f"{path}: not a collection, and not empty; choose another folder")
    if there and not overwrite:
        raise CollectionError(
            f"{path}: there is a collection already; open it, or replace it with overwrite=True"
        )


def make(path: Path, encoder: CollectionModel, *, dpi: float, cache_pages: bool) -> None:
    """An empty collection of `encoder`'s tokens in the folder `path`, in place of the one that may be
    there (IndexLocked: it is being written). Made under another name and then moved: a creation
    that is killed leaves no half collection."""
    there = (path / LEDGER).is_file()
    if there:
        with Index.open(path / INDEX, write=True):  # nobody is writing to it
            pass
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_name(f".{path.name}.{os.getpid()}.new")
    shutil.rmtree(making, ignore_errors=True)
    try:
        making.mkdir()
        Index.create(making / INDEX, encoder.dim, model=encoder.fingerprint).close()
        with closing(Ledger(making / LEDGER, create=True)) as ledger, ledger.transaction():
            ledger.set_facts(
                model=encoder.origin,
                fingerprint=encoder.fingerprint,
                dpi=dpi,
                cache_pages=cache_pages,
            )
        if there:
            shutil.rmtree(path)
        making.rename(path)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def exists(path: AnyPath) -> bool:
    """Whether there is a collection in this folder."""
    return (Path(path).expanduser() / LEDGER).is_file()


def canonical(given: AnyPath) -> Path:
    """A file or folder that is there, the same however it is reached; a link to a file keeps its
    name. Raises CollectionError."""
    path = Path(given).expanduser()
    try:
        if path.is_dir():
            return path.resolve()
        if path.exists():
            return path.parent.resolve() / path.name
    except OSError as error:
        raise CollectionError(f"{path}: {error.strerror}") from error
    raise CollectionError(f"{path}: no such file or folder")
