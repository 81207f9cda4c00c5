"""Collections of tokens for bench_index.py, in the form that all peers read (peers/protocol.py).

    python scripts/index_data.py DATA 10k|50k|pages|200k

10k, 50k: real text tokens, see token_data.py (which must have run), with the tokeniser's word ids.
pages:    at most 2,000 pages of public PDFs of 300 to 1,000 words, as the page reader that ships
          sees them: those that bench_pages.py has read (DATA/bench), and more where
          train_mini.py has read some (DATA/run); queries are titles out of the PDFs' outlines.
200k:     synthetic: 200,000 documents of about 80 tokens, see `Synthetic`.

Each is written once to DATA/bench_index/sets/<name>, with truth.npy: the 100 best documents for
each query by exact MaxSim in float32, and facts.json with what the tokens are like. Remove a
set to make it again, with newer weights for instance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

SETS = ("10k", "50k", "pages", "200k")
TOP = 100
QUERIES = {"10k": 200, "50k": 200, "pages": 200, "200k": 100}
PAGES, FEWEST, MOST = 2000, 300, 1000
Array = np.ndarray[Any, Any]


def prepare(data: Path, name: str) -> Path:
    """The folder of a set, made where it is missing."""
    folder = data / "bench_index" / "sets" / name
    if (folder / "facts.json").exists():
        return folder
    part = folder.with_name(name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    if name in ("10k", "50k"):
        text(data, int(name[:-1]) * 1000, part, QUERIES[name])
    elif name == "pages":
        pages(data, part, QUERIES[name])
    else:
        Synthetic().write(part, int(name[:-1]) * 1000, QUERIES[name])
    if not (part / "truth.npy").exists():
        np.save(part / "truth.npy", truth(part))
    (part / "facts.json").write_text(json.dumps(facts(part)))
    part.rename(folder)
    return folder


def save(folder: Path, values: Array, offsets: Array, ids: Array) -> None:
    np.save(folder / "values.npy", np.ascontiguousarray(values, np.float16))
    np.save(folder / "offsets.npy", offsets.astype(np.int64))
    np.save(folder / "token_ids.npy", ids.astype(np.uint32))


def save_queries(folder: Path, rows: list[Array]) -> None:
    np.save(folder / "queries.npy", np.concatenate(rows).astype(np.float32))
    np.save(folder / "query_offsets.npy", np.cumsum([0, *map(len, rows)], dtype=np.int64))


def text(data: Path, count: int, folder: Path, queries: int) -> None:
    """The first `count` package descriptions and the first `queries` queries."""
    import token_data
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    documents = load_file(data / "tokens" / f"documents_{count}.safetensors")
    asked = load_file(data / "tokens" / "queries.safetensors")
    known = load_file(data / "tokens" / f"truth_{count}.safetensors")
    tokenizer = AutoTokenizer.from_pretrained(token_data.weights(data))
    longs = [long for _, _, long in token_data.descriptions(data)[:count]]
    ids = tokenizer(longs, truncation=True, max_length=token_data.LIMIT)["input_ids"]
    flat = np.concatenate([np.asarray(row, np.uint32) for row in ids])
    if not np.array_equal(np.cumsum([0, *map(len, ids)]), documents["offsets"]):
        sys.exit("the descriptions have changed since their tokens were made: remove DATA/tokens")
    save(folder, documents["values"], documents["offsets"], flat)
    ends = asked["offsets"]
    save_queries(
        folder, [asked["values"][ends[i] : ends[i + 1]].astype(np.float32) for i in range(queries)]
    )
    np.save(folder / "truth.npy", known["positions"][:queries, :TOP])
    np.save(folder / "truth_scores.npy", known["scores"][:queries, :TOP])


def pages(data: Path, folder: Path, queries: int) -> None:
    """Pages as the shipped reader sees them; queries through the shipped `PageText`."""
    import torch
    from safetensors.torch import load_file

    from modalities.layout import geometry
    from modalities.page import PageReader, PageText

    torch.set_num_threads(1)
    first = sorted((data / "bench").glob("read-*.safetensors"), key=lambda p: p.stat().st_mtime)
    if not first:
        sys.exit(f"{data / 'bench'}: no readings of pages; run bench_pages.py --data {data} first")
    titles = json.loads((data / "bench" / "english.json").read_text())["queries"]
    reader, asker = PageReader.shipped(), PageText.shipped()
    tokens, wanted, kept = [], [], set()
    with torch.inference_mode():
        for path in (first[-1], data / "run" / "readings.safetensors"):
            if not path.exists():
                continue
            stored = load_file(path)
            sizes = np.diff(stored["offsets"].numpy()).tolist()
            split = zip(stored["vectors"].split(sizes), stored["boxes"].split(sizes), strict=True)
            for number, (vectors, boxes) in enumerate(split):
                if not FEWEST <= len(vectors) + 1 <= MOST or len(tokens) == PAGES:
                    continue
                mask = torch.ones(1, len(vectors), dtype=torch.bool)
                seen = reader.layout(vectors[None].float(), geometry(boxes)[None], mask)
                tokens.append(seen.tokens[0].half().numpy())
                if path == first[-1]:
                    kept.add(number)
        asked = [t for t, found in titles if kept & set(found) and len(t.split()) >= 2]
        random.Random(2).shuffle(asked)
        for title in asked[:queries]:
            grid = asker(asker.prepare([title], "query"))
            wanted.append(grid.tokens[0][grid.mask[0]].numpy())
    values = np.concatenate(tokens)
    save(folder, values, np.cumsum([0, *map(len, tokens)]), nearest_words(values))
    save_queries(folder, wanted)


def nearest_words(tokens: Array, count: int = 4096) -> Array:
    """Numbers of the nearest of `count` tokens: word ids for data whose words have none."""
    chosen = np.random.default_rng(3).choice(len(tokens), count, replace=False)
    table = tokens[chosen].astype(np.float32).T
    blocks = range(0, len(tokens), 8192)
    return np.concatenate(
        [(tokens[i : i + 8192].astype(np.float32) @ table).argmax(1) for i in blocks]
    )


class Synthetic:
    """Clustered tokens whose neighbourhoods resemble those of real ones (`facts` compares).

    A word w has a direction u_w and is used as Zipf's law says; a document has a subject among
    1,000 (their sizes fall as a power law too), and half of its words come from the subject's own
    list. A token is the normalised sum of a direction common to all, its word, its document's
    subject, its document, and noise; directions have a falling spectrum, like real ones, in
    random axes. A query takes words of one document, anew: other noise, a weaker tie to the
    document, and some words from elsewhere.
    """

    WORDS, SUBJECTS, OWN, DIM = 5_000, 1_000, 200, 128
    COMMON, WORD, SUBJECT, DOCUMENT, NOISE = 0.3, 1.0, 0.35, 0.22, 0.4
    ZIPF, SPECTRUM = 1.1, 0.35

    def __init__(self, seed: int = 11) -> None:
        self.rng = np.random.default_rng(seed)
        axes = np.linalg.qr(self.rng.standard_normal((self.DIM, self.DIM)))[0]
        fall = np.arange(1, self.DIM + 1) ** -self.SPECTRUM
        self.shape = (axes * (fall / np.linalg.norm(fall) * np.sqrt(self.DIM))).astype(np.float32).T
        self.common = self.directions(1)[0]
        self.words = self.directions(self.WORDS)
        self.subjects = self.directions(self.SUBJECTS)
        self.own = self.rng.integers(0, self.WORDS, (self.SUBJECTS, self.OWN))
        weights = np.arange(1, self.WORDS + 1) ** -self.ZIPF
        self.use = np.cumsum(weights / weights.sum())
        weights = np.arange(1, self.OWN + 1) ** -0.7
        self.use_own = np.cumsum(weights / weights.sum())
        weights = np.arange(1, self.SUBJECTS + 1) ** -0.5
        self.size = np.cumsum(weights / weights.sum())

    def directions(self, count: int) -> Array:
        """(count, D) float32 of norm about 1, with the spectrum."""
        rows = self.rng.standard_normal((count, self.DIM), dtype=np.float32) @ self.shape
        return rows / np.sqrt(self.DIM)

    def tokens(
        self, words: Array, subject: Array, document: Array, noise: float, tie: float
    ) -> Array:
        """Unit rows; words, subject (N,); document (N, D): each token's document's direction."""
        rows = self.COMMON * self.common + self.WORD * self.words[words]
        rows += tie * (self.SUBJECT * self.subjects[subject] + self.DOCUMENT * document)
        rows += noise * self.directions(len(words))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def draw(self, lengths: Array) -> tuple[Array, Array, Array]:
        """words, subject of each token, and the documents' directions."""
        subjects = np.searchsorted(self.size, self.rng.random(len(lengths)))
        owner = np.repeat(subjects, lengths)
        words = np.searchsorted(self.use, self.rng.random(len(owner)))
        own = self.own[owner, np.searchsorted(self.use_own, self.rng.random(len(owner)))]
        words = np.where(self.rng.random(len(owner)) < 0.5, own, words)
        return np.minimum(words, self.WORDS - 1), owner, self.directions(len(lengths))

    def write(self, folder: Path, count: int, queries: int) -> None:
        lengths = np.clip(self.rng.lognormal(np.log(74), 0.42, count).round(), 12, 200).astype(int)
        offsets = np.cumsum([0, *lengths], dtype=np.int64)
        values = np.lib.format.open_memmap(
            folder / "values.npy", "w+", np.float16, (int(offsets[-1]), self.DIM)
        )
        ids = np.empty(offsets[-1], np.uint32)
        asked: list[Array] = []
        for first in range(0, count, 5000):
            last = min(first + 5000, count)
            words, owner, directions = self.draw(lengths[first:last])
            span = slice(offsets[first], offsets[last])
            ids[span] = words
            of = np.repeat(directions, lengths[first:last], axis=0)
            values[span] = self.tokens(words, owner, of, self.NOISE, 1.0)
            while len(asked) < queries * last / count:
                i = int(self.rng.integers(first, last))
                mine = slice(offsets[i] - offsets[first], offsets[i + 1] - offsets[first])
                size = int(np.clip(self.rng.normal(12.5, 4), 4, 30))
                picked = self.rng.choice(words[mine], min(size, int(lengths[i])), replace=False)
                other = np.searchsorted(self.use, self.rng.random(len(picked)))
                picked = np.where(self.rng.random(len(picked)) < 0.3, other, picked)
                about, near = np.repeat(owner[mine][:1], len(picked)), of[mine][:1]
                asked.append(
                    self.tokens(np.minimum(picked, self.WORDS - 1), about, near, self.NOISE, 0.8)
                )
        values.flush()
        np.save(folder / "offsets.npy", offsets)
        np.save(folder / "token_ids.npy", ids)
        save_queries(folder, asked)


def truth(folder: Path) -> Array:
    """Positions (Q, TOP) of the best documents by exact MaxSim in float32; scores beside it."""
    values = np.load(folder / "values.npy", mmap_mode="r")
    offsets, ends = np.load(folder / "offsets.npy"), np.load(folder / "query_offsets.npy")
    tokens = np.load(folder / "queries.npy").T.copy()
    scores = np.empty((len(offsets) - 1, len(ends) - 1), np.float32)
    for first in range(0, len(scores), 100):
        part = offsets[first : first + 101]
        products = values[part[0] : part[-1]].astype(np.float32) @ tokens
        best = np.maximum.reduceat(products, part[:-1] - part[0], axis=0)
        scores[first : first + 100] = np.add.reduceat(best, ends[:-1], axis=1)
    order = np.argsort(-scores, axis=0, kind="stable")[:TOP].T
    np.save(folder / "truth_scores.npy", np.take_along_axis(scores.T, order, axis=1))
    return order.astype(np.int64)


def facts(folder: Path) -> dict[str, Any]:
    """What a set is like: sizes, how far tokens lie from centroids (`residuals`), how far
    apart the best documents' scores lie (a query's token)."""
    values = np.load(folder / "values.npy", mmap_mode="r")
    offsets, ends = np.load(folder / "offsets.npy"), np.load(folder / "query_offsets.npy")
    lengths, asked = np.diff(offsets), np.diff(ends)
    residual, spread = residuals(values)
    scores = np.load(folder / "truth_scores.npy")
    gaps = (scores[:, [0]] - scores[:, [9, TOP - 1]]) / asked[:, None]
    digest = hashlib.sha256(offsets.tobytes() + np.ascontiguousarray(values[:1000]).tobytes())
    return {
        "documents": len(lengths),
        "tokens": int(offsets[-1]),
        "dim": int(values.shape[1]),
        "tokens_a_document": [int(x) for x in np.percentile(lengths, (5, 50, 95))],
        "queries": len(asked),
        "tokens_a_query": round(float(asked.mean()), 1),
        "residual_norm": residual,
        "mean_cosine": spread,
        "best_score_a_token": round(float((scores[:, 0] / asked).mean()), 3),
        "gap_1_to_10": round(float(np.median(gaps[:, 0])), 4),
        "gap_1_to_100": round(float(np.median(gaps[:, 1])), 4),
        "signature": digest.hexdigest()[:16],
    }


def residuals(
    values: Array, sample: int = 60_000, centroids: int = 1024
) -> tuple[list[float], float]:
    """Quantiles (10, 50, 90 %) of the distance to the nearest of `centroids` centroids (4 rounds
    of spherical k-means on a sample), and the mean cosine of two tokens."""
    rng = np.random.default_rng(1)
    rows = values[np.sort(rng.choice(len(values), min(sample, len(values)), replace=False))]
    rows = rows.astype(np.float32)
    rows = rows[rng.permutation(len(rows))]
    table = rows[:centroids].copy()
    for _ in range(4):
        near = np.concatenate(
            [(rows[i : i + 8192] @ table.T).argmax(1) for i in range(0, len(rows), 8192)]
        )
        sums = np.zeros_like(table)
        np.add.at(sums, near, rows)
        table = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)
    best = np.concatenate(
        [(rows[i : i + 8192] @ table.T).max(1) for i in range(0, len(rows), 8192)]
    )
    distance = np.sqrt(np.maximum(2 - 2 * best, 0))
    pairs = float((rows.mean(0) ** 2).sum())
    return [round(float(x), 3) for x in np.percentile(distance, (10, 50, 90))], round(pairs, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="+", choices=SETS)
    options = parser.parse_args()
    for name in options.names:
        began = time.process_time()
        folder = prepare(options.data, name)
        print(name, (folder / "facts.json").read_text(), f"{time.process_time() - began:.0f} CPU s")


if __name__ == "__main__":
    main()
