"""An index as plain files that need none of this package to be read, and back again.

    export.json                facts: format, version, dim, model, options, counts, the list of files
                               with bytes and SHA-256, and the SHA-256 of all this
    documents.jsonl            a line a document, in order: {"id", "tokens", "metadata", "text"}
    tokens-00001.safetensors   token matrices of the documents, in the same order: `lengths` i64 (B,)
                               and `values` f16 (N, D), or what the codec made of them: `codes` u16
                               (N,), `packed` u8, ... (residual.py says what each array is)
    codec-1.safetensors        a codec: rotation, centroids, ... (codec.py)

In a folder, or in an uncompressed tar file where the target's name ends in ".tar". Deleted documents
are left out. imported.py reads it back.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lateint.index.errors import IndexExists
from lateint.index.export_format import (
    DOCUMENTS,
    FACTS,
    FORMAT,
    VERSION,
    beside,
    digest,
    facts_digest,
)
from lateint.index.folder import writing
from lateint.index.segments import sync_folder, write_segment

if TYPE_CHECKING:
    from lateint.index.reading import Reading


def export(index: Reading, target: str | os.PathLike[str]) -> None:
    """Writes all live documents of `index` to a new folder, or a new tar file, `target`.

    It appears whole or not at all. Raises IndexExists where there is something, IndexWriteFailed.
    """
    target = Path(target)
    if target.exists():
        raise IndexExists(f"{target}: exists already; give the name of something new")
    making = beside(target)
    with writing(target), index._use():
        making.mkdir(parents=True)
        try:
            _write_folder(index, making)
            if target.suffix == ".tar":
                packed = making.with_suffix(".tar")
                _write_tar(making, packed)
                packed.rename(target)
            else:
                making.rename(target)
            sync_folder(target.parent)
        finally:
            shutil.rmtree(making, ignore_errors=True)
            making.with_suffix(".tar").unlink(missing_ok=True)


def _write_folder(index: Reading, folder: Path) -> None:
    snapshot, catalog = index._snapshot, index._storage.catalog
    manifest = snapshot.manifest
    codecs, parts = {}, []
    with (folder / DOCUMENTS).open("xb") as lines:
        for count, part in enumerate(snapshot.live.parts, start=1):
            arrays = part.segment.taken(part.all_positions)
            numbers, offsets = arrays.pop("documents").tolist(), arrays.pop("offsets")
            name, codec = f"tokens-{count:05d}.safetensors", part.segment.codec
            write_segment(folder / name, {"lengths": np.diff(offsets), **arrays})
            if codec:
                codecs[codec.number] = codec
            parts.append(
                {
                    "file": name,
                    "kind": part.segment.kind,
                    "codec": codec and codec.number,
                    "documents": len(numbers),
                }
            )
            rows, texts = catalog.documents(numbers), catalog.texts(numbers)
            for number in numbers:
                row = rows[number]
                line = {"id": row.id, "tokens": row.tokens, "metadata": row.fields()}
                line["text"] = texts.get(number)
                lines.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
        lines.flush()
        os.fsync(lines.fileno())
    if snapshot.codec:
        codecs[snapshot.codec.number] = snapshot.codec
    for number, codec in codecs.items():
        write_segment(folder / f"codec-{number}.safetensors", codec.codec.arrays())
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "dim": manifest.dim,
        "model": manifest.model,
        "options": asdict(manifest.options),
        "documents": manifest.documents,
        "tokens": manifest.tokens,
        "parts": parts,
        "codecs": {
            str(number): {"tokens": codec.tokens, "energy": codec.energy}
            for number, codec in codecs.items()
        },
        "codec": manifest.codec,
        "fresh": [manifest.fresh_tokens, manifest.fresh_energy],
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": digest(file)}
            for file in sorted(folder.iterdir())
        },
    }
    facts["sha256"] = facts_digest(facts)
    with (folder / FACTS).open("xb") as file:
        file.write(json.dumps(facts, indent=1).encode())
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def _write_tar(folder: Path, target: Path) -> None:
    names = sorted((file.name for file in folder.iterdir()), key=lambda name: (name != FACTS, name))
    with target.open("xb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for name in names:
                archive.add(folder / name, name, recursive=False, filter=_plain)
        file.flush()
        os.fsync(file.fileno())


def _plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's name and no time in it: the same index gives the same bytes."""
    info.uid = info.gid = info.mtime = 0
    info.uname = info.gname = ""
    info.mode = 0o644
    return info
