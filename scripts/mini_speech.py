"""Speech and sounds: a section of `bench_mini.py`.

    python scripts/mini_speech.py --data DATA

prompts: the English voice prompts of Asterisk (real speech, 8 kHz, a voice that no training has
heard) and their transcripts, each way, among all of them; what a transcript says counts, not its
number, as some prompts say the same. Beside it what a user would do instead: Whisper tiny.en's
transcription (its decoder, greedy) and BM25, on some of the prompts among all transcripts.

questions: outline titles spoken by two voices that no training has heard, against the same titles
typed, over the pages of `bench_pages.py` as the package reads them.

sounds: sounds of held-out names, each name among all held-out names, and the names asking.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_pages
import numpy as np
import sound_data
import speech_data
import torch
from development import english_read
from torch import Tensor
from whisper_weights import Transcriber

import lateint
from lateint.heads import make_head
from lateint.index import Index
from lateint.maxsim import maxsim
from lateint.ragged import Ragged
from modalities import words
from modalities.hearing import RATE
from modalities.layout import geometry
from modalities.media import open_audio, resample
from modalities.page import PageText
from modalities.speech import Impression, SpeechReader

TEXTS = "asterisk-core-sounds-en/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz"
SOUNDS = "asterisk-core-sounds-en-wav/usr/share/asterisk/sounds/en_US_f_Allison"
TRANSCRIBED = 60  # prompts that Whisper's decoder reads
TITLES = 150
SEED = 31


@dataclass(frozen=True)
class Prompt:
    """A recording and what it says. spoken: False where the text only describes (tones, silence,
    monkeys)."""

    path: Path
    text: str

    @property
    def spoken(self) -> bool:
        return re.fullmatch(r"\s*[\[(].*[\])]\s*", self.text) is None

    @property
    def words(self) -> str:
        return folded(self.text)


def folded(text: str) -> str:
    return " ".join(word for word, _, _ in words.split(text))


def prompts(data: Path) -> list[Prompt]:
    """Asterisk's prompts that have both a recording and a transcript, by name."""
    with gzip.open(data / "pkg" / TEXTS, "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in file if ":" in line and not line.startswith(";")]
    found = []
    for line in sorted(lines):
        name, _, text = line.partition(":")
        path = data / "pkg" / SOUNDS / f"{name.strip()}.wav"
        if path.exists():
            found.append(Prompt(path, text.strip()))
    return found


class Once(SpeechReader):
    """Hears each recording once, however often it is asked or searched in the measurements."""

    def __init__(self, text: PageText | None = None) -> None:
        super().__init__(text)
        self.kept: dict[bytes, Impression] = {}
        self.said: dict[bytes, str] = {}

    def listen(self, samples: Tensor) -> Impression:
        key = samples.numpy().tobytes()
        if key not in self.kept:
            self.kept[key] = super().listen(samples)
            self.said[key] = " ".join(self.kept[key].said.written)
        return self.kept[key]


def shipped() -> tuple[lateint.LateInteractionModel, Once]:
    """The towers for speech and text that ship, with both heads."""
    heads = {
        "multi": make_head("multi", {"queries": "weighted"}),
        "single": make_head("single"),
    }
    ear = Once.shipped()
    model = lateint.LateInteractionModel({"audio": ear, "text": PageText.shipped()}, heads)
    return model.eval(), ear


def recall(scores: np.ndarray, right: Sequence[Sequence[int]]) -> dict[str, float]:
    """Recall@1 and @10 of a (queries, documents) matrix: whether one of the right ones is there."""
    order = np.argsort(-scores, axis=1, kind="stable")
    return {
        f"R@{k}": round(
            float(np.mean([not set(row[:k].tolist()).isdisjoint(of)
                           for row, of in zip(order, right, strict=True)])), 4,
        )
        for k in (1, 10)
    }  # fmt: skip


def scores(queries: Ragged | Tensor, documents: Ragged | Tensor) -> np.ndarray:
    return maxsim(queries, documents).numpy()


def distance(a: str, b: str) -> int:
    """Edits that turn one text into the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


@torch.inference_mode()
def prompt_rows(
    data: Path, model: lateint.LateInteractionModel, ear: Once, transcribed: int
) -> dict[str, Any]:
    """The section `prompts`."""
    found = prompts(data)
    texts = [p.text for p in found]
    same = [[j for j, other in enumerate(found) if other.words == p.words] for p in found]
    sounds = [np.clip(resample(open_audio(p.path), RATE), -1, 1) for p in found]
    items = [(samples, RATE) for samples in sounds]
    seconds = sum(map(len, sounds)) / RATE
    began = time.process_time()
    asked = model.encode_queries(items, modality="audio")
    took = time.process_time() - began
    spoken = [i for i, p in enumerate(found) if p.spoken]
    table: dict[str, Any] = {
        "prompts": len(found),
        "spoken": len(spoken),
        "seconds": round(seconds, 1),
        "cpu_seconds_a_second": round(took / seconds, 4),
    }
    written = model.encode_documents(texts, modality="text")
    multi = scores(asked, written)
    table["prompt > transcript"] = recall(multi, same)
    table["spoken prompt > transcript"] = recall(multi[spoken], [same[i] for i in spoken])
    single = [
        model.encode_queries(items, modality="audio", head="single").values,
        model.encode_documents(texts, modality="text", head="single").values,
    ]
    table["prompt > transcript, single"] = recall((single[0] @ single[1].T).numpy(), same)
    recordings = model.encode_documents(items, modality="audio")
    table["transcript > prompt"] = recall(scores(model.encode_queries(texts), recordings), same)
    typed = recall(scores(model.encode_queries(texts), written), same)
    table["transcript as typed > transcript"] = typed
    table["bytes_a_second"] = round(_bytes(recordings) / seconds, 1)
    edits = letters = 0
    for i in spoken:
        target = folded(speech_data.said(texts[i]) or texts[i])
        edits += distance(ear.said[sounds[i].tobytes()].strip(), target)
        letters += len(target)
    table["character_errors"] = round(edits / letters, 4)
    if transcribed:
        chosen = random.Random(SEED).sample(spoken, transcribed)
        read, took = transcripts(data, "prompts", [sounds[i] for i in chosen])
        lexical = bench_pages.bm25([p.words.split() for p in found], [r.split() for r in read])
        table["Whisper and BM25"] = {
            "prompts": len(chosen),
            "Whisper, BM25": recall(lexical, [same[i] for i in chosen]),
            "Whisper, typed": recall(
                scores(model.encode_queries(read), written), [same[i] for i in chosen]
            ),
            "heard": recall(multi[chosen], [same[i] for i in chosen]),
            "cpu_seconds_a_second": round(took / (sum(len(sounds[i]) for i in chosen) / RATE), 4),
        }
    return table


def transcripts(data: Path, name: str, sounds: list[np.ndarray]) -> tuple[list[str], float]:
    """What Whisper tiny.en writes down, folded, and the CPU seconds it took; kept in DATA/bench."""
    digest = hashlib.sha256(b"".join(samples.tobytes() for samples in sounds)).hexdigest()[:12]
    kept = data / "bench" / f"whisper-{name}-{digest}.json"
    if not kept.exists():
        transcribe = Transcriber(data)
        began = time.process_time()
        read = [folded(transcribe(samples)) for samples in sounds]
        took = time.process_time() - began
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"read": read, "seconds": took}))
    stored = json.loads(kept.read_text())
    return stored["read"], stored["seconds"]


def _bytes(documents: Ragged) -> float:
    """What these documents take in an index of 4 bits."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        index = Index.create(Path(folder) / "index", dim=documents.values.shape[1])
        index.add([str(i) for i in range(len(documents))], documents)
        index.close()
        return sum(f.stat().st_size for f in Path(folder).rglob("*") if f.is_file())


@torch.inference_mode()
def question_rows(
    data: Path, model: lateint.LateInteractionModel, transcribed: int
) -> dict[str, Any]:
    """The section `questions`."""
    corpus, pages = english_read(data)
    names = [f"{corpus.document[i]}/{name}" for i, name in enumerate(corpus.names)]
    titles = [
        (said, pages)
        for text, pages in corpus.queries
        if len([*words.split(text)]) >= 2 and (said := speech_data.said(text))
    ]
    titles = random.Random(SEED).sample(titles, TITLES)
    qrels = {f"q{i}": {names[p]: 1 for p in right} for i, (_, right) in enumerate(titles)}
    speak = speech_data.Speaker(data)
    sounds = [(speak.unseen(title, i) * 0.5, RATE) for i, (title, _) in enumerate(titles)]
    layout = PageText.shipped().layout
    documents = Ragged.from_list(
        [
            layout(
                v[None].float(), geometry(b)[None], torch.ones(1, len(v), dtype=torch.bool)
            ).tokens[0]
            for v, b in pages
        ]
    )
    typed = scores(model.encode_queries([title for title, _ in titles]), documents)
    spoken = scores(model.encode_queries(sounds, modality="audio"), documents)
    table: dict[str, Any] = {
        "pages": len(names),
        "titles": len(titles),
        "typed": bench_pages.evaluate(qrels, typed, names),
        "spoken": bench_pages.evaluate(qrels, spoken, names),
    }
    for first, voice in enumerate(speech_data.UNSEEN):
        chosen = range(first, len(titles), 2)
        some = {f"q{i}": qrels[f"q{i}"] for i in chosen}
        table[f"spoken by {voice}"] = bench_pages.evaluate(some, spoken[list(chosen)], names)
    if transcribed:
        chosen = range(min(transcribed, len(titles)))
        read, _ = transcripts(data, "questions", [sounds[i][0] for i in chosen])
        lexical = bench_pages.bm25(bench_pages.layer(corpus), [r.split() for r in read])
        some = {f"q{i}": qrels[f"q{i}"] for i in chosen}
        table["of some"] = {
            "titles": len(some),
            "spoken": bench_pages.evaluate(some, spoken[list(chosen)], names),
            "Whisper, BM25 on the text layer": bench_pages.evaluate(some, lexical, names),
        }
    table["spoken_of_typed"] = round(table["spoken"]["nDCG@5"] / table["typed"]["nDCG@5"], 3)
    return table


@torch.inference_mode()
def sound_rows(data: Path, model: lateint.LateInteractionModel) -> dict[str, Any]:
    """The section `sounds`."""
    held = [sound for sound in sound_data.sounds(data) if sound.held]
    names = sorted({sound.name for sound in held})
    items = [(sound.samples(), RATE) for sound in held]
    right = [[names.index(sound.name)] for sound in held]
    asked = model.encode_queries(items, modality="audio")
    there = model.encode_documents(items, modality="audio")
    back = [[i for i, sound in enumerate(held) if sound.name == name] for name in names]
    return {
        "sounds": len(held),
        "names": len(names),
        "sound > name": recall(
            scores(asked, model.encode_documents(names, modality="text")), right
        ),
        "name > sound": recall(scores(model.encode_queries(names), there), back),
        "chance R@10": round(10 / len(names), 4),
    }


def measure(data: Path, transcribed: int = TRANSCRIBED) -> dict[str, Any]:
    """All three sections. transcribed: prompts, and questions, that Whisper's decoder reads, at some
    1.5 CPU seconds each; 0: none."""
    model, ear = shipped()
    return {
        "prompts": prompt_rows(data, model, ear, transcribed),
        "questions": question_rows(data, model, transcribed),
        "sounds": sound_rows(data, model),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--transcribed", type=int, default=TRANSCRIBED)
    args = parser.parse_args()
    found = measure(args.data, args.transcribed)
    for section, table in found.items():
        print(section, *(f"{row}: {value}" for row, value in table.items()), sep="\n  ")


if __name__ == "__main__":
    main()
