"""Texts as the ear hears them: what contexts learn from that words may be misheard.

Outline titles of pages that were read and the texts of `speech_data.texts`, spoken by the voices of
training, spoilt as there, and heard by what the package hears with: words that were written down, and
where those are in doubt the words as they sound. A prompt of the development set is never among them.

`make` writes RUN/heard/<n>.safetensors, PART utterances each: vectors fp16 [N, WIDTH] and letters i64 [N]
of heard words, offsets i64 [2 PART + 1]: of utterance i the words that were said are part 2 i, those that
may have been instead part 2 i + 1; texts u8: UTF-8, a line an utterance.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import speech_data
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modalities import words
from modalities.speech import SpeechReader

SEED = 41
PART = 50
QUIET = 0.3  # seconds at most before and after what is said

Heard = tuple[Tensor, Tensor]  # of N words: vectors (N, WIDTH) fp32, numbers of letters (N,)


@dataclass
class Utterances:
    """What was said, in folded words, and what was heard of each: the words written down, and those
    that may have been instead (often none)."""

    texts: list[tuple[str, ...]] = field(default_factory=list)
    said: list[Heard] = field(default_factory=list)
    instead: list[Heard] = field(default_factory=list)

    @classmethod
    def load(cls, paths: Sequence[Path]) -> Utterances:
        """Those of which anything was heard."""
        made = cls()
        for path in paths:
            stored = load_file(str(path))
            sizes = stored["offsets"].diff().tolist()
            vectors, letters = (
                stored["vectors"].float().split(sizes),
                stored["letters"].split(sizes),
            )
            rows = list(zip(vectors, letters, strict=True))
            spoken = stored["texts"].numpy().tobytes().decode().split("\n")
            for text, said, instead in zip(spoken, rows[::2], rows[1::2], strict=True):
                if (spelt := folded(text)) and len(said[0]):
                    made.texts.append(spelt)
                    made.said.append(said)
                    made.instead.append(instead)
        return made


def folded(text: str) -> tuple[str, ...]:
    return tuple(word for word, _, _ in words.split(text))


def chosen(data: Path, corpus: Path, readings: Path, count: int) -> list[str]:
    """First the outline titles of pages that were read, since those are asked of pages; then texts of
    other kinds; none twice. corpus, readings: of stages collect and gather."""
    glosses, _ = speech_data.wordnet(data / "pkg" / "wordnet-base")
    read = set(load_file(str(readings))["pages"].tolist())
    queries = json.loads(corpus.with_suffix(".json").read_text())["queries"]
    titles = [title for title, pages in queries if not read.isdisjoint(pages)]
    rng = random.Random(SEED)
    found = dict.fromkeys(sorted(set(speech_data.sayable(titles, glosses))))
    draw = speech_data.texts(data, corpus.with_suffix(".json"))
    while len(found) < count:
        found[draw(rng)] = None
    texts = [*found][:count]
    rng.shuffle(texts)
    return texts


@dataclass(frozen=True)
class Job:
    data: Path
    ear: Callable[[], SpeechReader]
    seed: int
    texts: list[str]
    target: Path


def hear(job: Job) -> None:
    """Speaks and hears one part."""
    torch.set_num_threads(1)
    rng, speak, ear = random.Random(job.seed), speech_data.Speaker(job.data), job.ear()
    rows, texts = list[Heard](), list[str]()
    for text in job.texts:
        samples, own = speak(rng, text)
        edges = [torch.zeros(int(rng.uniform(0.05, QUIET) * speech_data.RATE)) for _ in range(2)]
        whole = torch.cat([edges[0], torch.from_numpy(samples), edges[1]])
        with torch.inference_mode():
            heard = ear.listen(torch.from_numpy(speech_data.spoilt(rng, whole.numpy())))
        rows += [(one.vectors, one.letters) for one in (heard.said, heard.instead)]
        texts.append(own)
    lengths = torch.tensor([0] + [len(vectors) for vectors, _ in rows])
    part = job.target.with_suffix(".part")
    save_file(
        {
            "vectors": torch.cat([vectors.half() for vectors, _ in rows]),
            "letters": torch.cat([letters.long() for _, letters in rows]),
            "offsets": lengths.cumsum(0),
            "texts": torch.frombuffer(bytearray("\n".join(texts).encode()), dtype=torch.uint8),
        },
        str(part),
    )
    part.replace(job.target)


def make(
    data: Path,
    corpus: Path,
    readings: Path,
    ear: Callable[[], SpeechReader],
    out: Path,
    *,
    count: int,
    workers: int,
) -> list[Path]:
    """The parts, those that are there already left as they are. corpus, readings: as in `chosen`; ear:
    makes what hears, in each process. The result does not depend on `workers`."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{i:03}.safetensors" for i in range(-(-count // PART))]
    if all(path.exists() for path in paths):
        return paths
    texts = chosen(data, corpus, readings, count)
    jobs = [
        Job(data, ear, SEED + i, texts[i * PART : (i + 1) * PART], path)
        for i, path in enumerate(paths)
        if not path.exists()
    ]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for i, _ in enumerate(pool.map(hear, jobs), 1):
            print(f"{i} of {len(jobs)} parts heard", flush=True)
    return paths
