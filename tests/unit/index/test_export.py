"""Out of an index into plain files and back: equal answers; files that lie are refused."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_helpers import matrices
from safetensors.numpy import load_file, save_file

from lateint.index import Index, IndexCorrupt, IndexExists, IndexTooNew, IndexWriteFailed

DIM = 32
OPTIONS: dict[str, dict[str, Any]] = {
    "fp16": {"nbits": 16},
    "4bit": {"nbits": 4},
    "1bit": {"nbits": 1, "fde": {"repetitions": 4, "bits": 2}, "seed": 3},
    "originals": {"nbits": 2, "keep_originals": True, "prefix": 32, "pool_factor": 2},
}


def made(path: Path, **options: Any) -> Index:
    """An index with a past: two codecs, a deleted document, one that was replaced."""
    dim = 40 if options.get("prefix") else DIM
    docs = matrices(1, 90, dim=dim)
    index = Index.create(path, dim, model="m", **options)
    for low in (0, 30, 60):
        index.add(
            [f"d{i}" for i in range(low, low + 30)],
            docs[low : low + 30],
            metadata=[{"n": i, "größe": [i, None]} for i in range(low, low + 30)],
            texts=[f"Wörter {i}\n\u2028 \0" if i % 2 else None for i in range(low, low + 30)],
        )
        if low == 30 and options["nbits"] != 16:
            index.train()
    index.delete(["d3", "d77"])
    index.upsert(["d5"], docs[5:6], metadata=[{"n": "new"}])
    return index


def answers(index: Index) -> dict[str, Any]:
    ids = index.ids()
    queries = matrices(9, 3, dim=index.dim)
    info = index.info()
    return {
        "ids": ids,
        "metadata": index.metadata(ids),
        "texts": index.texts(ids),
        "tokens": [tokens.tobytes() for tokens in index.reconstruct(ids)],
        "hits": index.search(queries, 50),
        "words": index.search_hybrid(None, ["wörter 7"], 50, fusion="bm25"),
        "info": (
            info.dim,
            info.model,
            info.nbits,
            info.tokens,
            info.centroids,
            info.drift,
            info.seed,
        ),
    }


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("target", ["out", "out.tar"])
def test_there_and_back(tmp_path: Path, name: str, target: str) -> None:
    with made(tmp_path / "i", **OPTIONS[name]) as index:
        index.export(tmp_path / target)
        wanted = answers(index)
        with Index.from_export(tmp_path / target, tmp_path / "back") as back:
            assert answers(back) == wanted
            back.verify()
            if name == "1bit":
                queries = matrices(9, 3, dim=DIM)
                found = index.search(queries, 5, mode="fde", ncandidates=20)
                assert back.search(queries, 5, mode="fde", ncandidates=20) == found
            back.add(["more"], matrices(2, 1, dim=back.dim))  # and it goes on
            back.compact()
            back.verify()
            assert len(back) == len(index) + 1
    assert not [entry for entry in tmp_path.iterdir() if entry.name.startswith(".")]


def test_the_same_index_gives_the_same_bytes(tmp_path: Path) -> None:
    with made(tmp_path / "i", nbits=4) as index:
        index.export(tmp_path / "a.tar")
        index.export(tmp_path / "b.tar")
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_it_can_be_read_without_us(tmp_path: Path) -> None:
    with made(tmp_path / "i", nbits=16) as index:
        index.export(tmp_path / "out")
        wanted = [tokens.astype(np.float16) for tokens in index.reconstruct(index.ids())]
        ids = index.ids()
    lines = (tmp_path / "out/documents.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    documents = [json.loads(line) for line in lines]
    assert [document["id"] for document in documents] == ids
    found: list[Any] = []
    for file in sorted((tmp_path / "out").glob("tokens-*")):
        arrays = load_file(file)
        found += np.split(arrays["values"], np.cumsum(arrays["lengths"])[:-1])
    for got, one, document in zip(found, wanted, documents, strict=True):
        np.testing.assert_array_equal(got, one)
        assert document["tokens"] == len(one)


def test_empty_index_and_taken_names(tmp_path: Path) -> None:
    with Index.create(tmp_path / "i", DIM) as index:
        index.export(tmp_path / "out")
        with pytest.raises(IndexExists):
            index.export(tmp_path / "out")
    with Index.from_export(tmp_path / "out", tmp_path / "back") as back:
        assert back.ids() == [] and back.dim == DIM
    for taken in (tmp_path / "back", tmp_path / "out/export.json"):
        with pytest.raises(IndexExists):
            Index.from_export(tmp_path / "out", taken)
    for nothing in (tmp_path / "none", tmp_path):
        with pytest.raises(IndexCorrupt):
            Index.from_export(nothing, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_reader_exports_its_snapshot(tmp_path: Path) -> None:
    with made(tmp_path / "i", nbits=4) as index, Index.open(tmp_path / "i") as reader:
        wanted = answers(reader)
        index.delete(["d0", "d1"])
        index.compact()
        reader.export(tmp_path / "out")
    with Index.from_export(tmp_path / "out", tmp_path / "back") as back:
        assert answers(back) == wanted


def test_a_disk_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(file: int, data: Any) -> int:
        raise OSError(28, "No space left on device")

    with made(tmp_path / "i", nbits=16) as index:
        index.export(tmp_path / "out")
        monkeypatch.setattr(os, "write", full)
        with pytest.raises(IndexWriteFailed, match="No space"):
            index.export(tmp_path / "again")
        with pytest.raises(IndexWriteFailed, match="No space"):
            Index.from_export(tmp_path / "out", tmp_path / "back")
    left = sorted(entry.name for entry in tmp_path.iterdir())
    assert left == ["i", "out"]


def sign(folder: Path, change: Callable[[dict[str, Any]], None] = lambda facts: None) -> None:
    """Makes export.json fit the files again, as one who means harm would."""
    facts = json.loads((folder / "export.json").read_text())
    for name in facts["files"]:
        if (folder / name).is_file():
            body = (folder / name).read_bytes()
            digest = hashlib.sha256(body).hexdigest()
            facts["files"][name] = {"bytes": len(body), "sha256": digest}
    change(facts)
    facts.pop("sha256", None)
    facts["sha256"] = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    (folder / "export.json").write_text(json.dumps(facts))


def arrays(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    held = load_file(file)
    change(held)
    save_file({name: np.ascontiguousarray(array) for name, array in held.items()}, file)


TOKENS = "tokens-00002.safetensors"


def line(folder: Path, number: int, **changes: Any) -> None:
    lines = (folder / "documents.jsonl").read_text(encoding="utf-8").split("\n")
    lines[number] = json.dumps({**json.loads(lines[number]), **changes})
    (folder / "documents.jsonl").write_text("\n".join(lines), encoding="utf-8")


def extended(file: Path, more: bytes) -> None:
    file.write_bytes(file.read_bytes() + more)


SIGNED: dict[str, Callable[[Path], Any]] = {
    "code beyond": lambda f: arrays(f / TOKENS, lambda a: a["codes"].__setitem__(0, 60000)),
    "wide residual": lambda f: arrays(f / TOKENS, lambda a: a.update(packed=a["packed"][:, :8])),
    "short": lambda f: arrays(f / TOKENS, lambda a: a.update(codes=a["codes"][:-1])),
    "length 0": lambda f: arrays(f / TOKENS, lambda a: a["lengths"].__setitem__(0, 0)),
    "length less": lambda f: arrays(f / TOKENS, lambda a: a["lengths"].__setitem__(0, -5)),
    "length huge": lambda f: arrays(f / TOKENS, lambda a: a["lengths"].__setitem__(0, 2**62)),
    "no lengths": lambda f: arrays(f / TOKENS, lambda a: a.__delitem__("lengths")),
    "no codes": lambda f: arrays(f / TOKENS, lambda a: a.__delitem__("codes")),
    "not safetensors": lambda f: (f / TOKENS).write_bytes(b"\x80\x05cos\nsystem\n" * 9),
    "codec turned": lambda f: arrays(
        f / "codec-1.safetensors", lambda a: a["rotation"].__setitem__((0, 0), 9)
    ),
    "id twice": lambda f: line(f, 4, id="d0"),
    "no id": lambda f: line(f, 4, id=""),
    "number as id": lambda f: line(f, 4, id=7),
    "metadata": lambda f: line(f, 4, metadata=[1]),
    "text": lambda f: line(f, 4, text=5),
    "tokens": lambda f: line(f, 4, tokens=1000),
    "line": lambda f: (f / "documents.jsonl").write_bytes(b"[" * 100_000),
    "more lines": lambda f: extended(f / "documents.jsonl", b"{}\n"),
}
FACTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dim": lambda facts: facts.update(dim=64),
    "dim text": lambda facts: facts.update(dim="32"),
    "option": lambda facts: facts["options"].update(nbits=3),
    "unknown option": lambda facts: facts["options"].update(path="/tmp"),
    "memory": lambda facts: facts["options"].update(memory=-1),
    "count": lambda facts: facts.update(documents=5),
    "codec": lambda facts: facts.update(codec=9),
    "kind": lambda facts: facts["parts"][0].update(kind="pickle"),
    "wrong kind": lambda facts: facts["parts"][0].update(kind="fp16"),
    "parts": lambda facts: facts["parts"].pop(),
    "parent path": lambda facts: facts["files"].update({"../x": {"bytes": 1, "sha256": ""}}),
    "absolute path": lambda facts: facts["files"].update(
        {"/etc/passwd": {"bytes": 1, "sha256": ""}}
    ),
    "format": lambda facts: facts.update(format="other"),
    "list": lambda facts: facts.update(files=[1]),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    with made(folder / "i", nbits=4) as index:
        index.export(folder / "out")
    return folder / "out"


def refused(folder: Path, source: Path, error: type[Exception] = IndexCorrupt) -> None:
    before = sorted(entry.name for entry in folder.iterdir())
    with pytest.raises(error, match=r"export|documents|tokens-|codec-|out|tar"):
        Index.from_export(source, folder / "back")
    assert sorted(entry.name for entry in folder.iterdir()) == before  # nothing is left behind


@pytest.mark.parametrize("name", SIGNED)
def test_contents_that_lie(tmp_path: Path, good: Path, name: str) -> None:
    shutil.copytree(good, tmp_path / "out")
    SIGNED[name](tmp_path / "out")
    refused(tmp_path, tmp_path / "out")  # the checksum says so
    sign(tmp_path / "out")
    refused(tmp_path, tmp_path / "out")  # and so does a look at what is in it


@pytest.mark.parametrize("name", FACTS)
def test_facts_that_lie(tmp_path: Path, good: Path, name: str) -> None:
    shutil.copytree(good, tmp_path / "out")
    sign(tmp_path / "out", lambda facts: FACTS[name](facts) and None)
    refused(tmp_path, tmp_path / "out")


def test_versions_links_and_missing_files(tmp_path: Path, good: Path) -> None:
    for spoil, error in (
        (lambda f: sign(f, lambda facts: facts.update(version=2)), IndexTooNew),
        (lambda f: (f / TOKENS).unlink(), IndexCorrupt),
        (lambda f: ((f / TOKENS).unlink(), (f / TOKENS).symlink_to(good / TOKENS)), IndexCorrupt),
        (lambda f: ((f / TOKENS).unlink(), os.mkfifo(f / TOKENS)), IndexCorrupt),
        (lambda f: os.truncate(f / TOKENS, 100), IndexCorrupt),
        (lambda f: (f / "export.json").write_text("{}"), IndexCorrupt),
        (lambda f: (f / "export.json").write_bytes(b"\xff" * 99), IndexCorrupt),
        (lambda f: os.truncate(f / "export.json", 65 << 20), IndexCorrupt),
    ):
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.copytree(good, tmp_path / "out")
        spoil(tmp_path / "out")  # type: ignore[no-untyped-call]
        refused(tmp_path, tmp_path / "out", error)


def archive(
    path: Path, good: Path, *extra: tarfile.TarInfo, first: bool = True, mode: str = "w"
) -> Path:
    names = sorted(file.name for file in good.iterdir())
    names.sort(key=lambda name: (name == "export.json") != first)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name in names:
            tar.add(good / name, name)
        for info in extra:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def test_hostile_archives(tmp_path: Path, good: Path) -> None:
    Index.from_export(archive(tmp_path / "x.tar", good), tmp_path / "fine").close()
    shutil.rmtree(tmp_path / "fine")
    for info in (
        member("../documents.jsonl", size=4),
        member("/tmp/documents.jsonl", size=4),
        member("sub/documents.jsonl", size=4),
        member("documents.jsonl", size=4),  # a second one
        member("tokens-99999.safetensors", size=4),  # not listed
        member("setup.py", size=4),
        member("tokens-00009.safetensors", tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("tokens-00009.safetensors", tarfile.LNKTYPE, linkname="export.json"),
        member("tokens-00009.safetensors", tarfile.FIFOTYPE),
        member("tokens-00009.safetensors", tarfile.CHRTYPE, devmajor=1, devminor=5),
        member("folder", tarfile.DIRTYPE),
    ):
        (tmp_path / "x.tar").unlink()
        refused(tmp_path, archive(tmp_path / "x.tar", good, info))
    archive(tmp_path / "x.tar", good, first=False)
    refused(tmp_path, tmp_path / "x.tar")
    archive(tmp_path / "x.tar", good, mode="w:gz")  # what swells is not unpacked
    refused(tmp_path, tmp_path / "x.tar")
    archive(tmp_path / "x.tar", good)
    size = (tmp_path / "x.tar").stat().st_size
    for cut in (0, 100, 700, size // 2):
        (tmp_path / "y.tar").write_bytes((tmp_path / "x.tar").read_bytes()[:cut])
        refused(tmp_path, tmp_path / "y.tar")
    large = member("export.json", size=1 << 40)  # claims a terabyte
    (tmp_path / "x.tar").write_bytes(large.tobuf() + b"x" * 512)
    refused(tmp_path, tmp_path / "x.tar")
