"""English speech to train on, made here: texts spoken by espeak-ng and flite, with their letters.

    python scripts/speech_data.py --data DATA --out RUN/speech --shards 30

Several utterances are put into one window of 3 to 30 s, with pauses, noise, reverberation and the
narrow band of a telephone; the window goes through Whisper's encoder once and its frames are kept
(fp16), so training the head costs little. A few words are real: tuxpaint's English voices. The
asterisk prompts are the development set and are never read here; one voice of each synthesiser
(`UNSEEN`) is kept for measuring.

Texts: short descriptions of Debian packages, outline titles of the training PDFs, glosses and
examples of WordNet, single words, names of letters and numbers. Numbers are spelt out, since that
is how they are heard.

Writes RUN/speech/<n>.safetensors: frames fp16 [N, 384], spans i64 [U, 2] (the frames of each
utterance, half of the pause on either side included), letters u8 and their offsets i64 [U + 1]
(classes of `modalities.hearing`, SPACE between words).
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import json
import random
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
import wheels
import whisper_weights
from safetensors.torch import save_file
from token_data import descriptions

from modalities import words
from modalities.hearing import FRAME, LATIN, RATE, SPACE, log_mel

ESPEAK = "espeakng-loader==0.2.4"
FLITE = ("kal", "kal16", "awb", "slt", "rms")
UNSEEN = ("rms", "en-gb-scotland+f3")  # only for measuring
ACCENTS = ("en-us", "en-us", "en-us", "en", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-us-nyc", "en-029")
VARIANTS = (
    *("f1", "f2", "f4", "f5", "m1", "m2", "m3", "m4", "m5", "m6", "m7", "m8"),
    *("Alex", "Alicia", "Andrea", "Andy", "Annie", "Gene", "Jacky", "Lee", "Mario", "Michael"),
    *("anika", "adam", "belinda", "benjamin", "caleb", "david", "ed", "edward", "john", "linda"),
    *("marcelo", "max", "miguel", "norbert", "pablo", "paul", "quincy", "rob", "robert", "sandro"),
    *("shelby", "steph", "travis", "victor", "zac", "klatt", "klatt2", "klatt4", "iven", "mike2"),
)
WINDOWS = 30  # of a shard
SEED = 17

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth fortieth "
    "fiftieth sixtieth seventieth eightieth ninetieth hundredth thousandth millionth"
).split()
CALENDAR = (
    "monday tuesday wednesday thursday friday saturday sunday january february march april may "
    "june july august september october november december today tomorrow yesterday morning noon "
    "hundred thousand million billion hour minute second day week month year"
).split()


def spelt_out(number: int) -> str:
    """A number as it is said: 0 to 999,999."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return TENS[tens - 2] + (f" {SMALL[rest]}" if rest else "")
    unit, name = (100, "hundred") if number < 1000 else (1000, "thousand")
    many, rest = divmod(number, unit)
    return f"{spelt_out(many)} {name}" + (f" {spelt_out(rest)}" if rest else "")


def said(text: str) -> str | None:
    """A text as it is spoken, numbers as words; None where that cannot be told from the letters
    (symbols, file names, abbreviations of letters and digits, other scripts)."""
    text = re.sub(
        r"\d+", lambda m: f" {spelt_out(int(m.group()))} " if len(m.group()) < 6 else "#", text
    )
    text = re.sub(r"[()\[\]\"“”:;!?…/–—]", ", ", text).replace("’", "'").replace("-", " ")
    text = " ".join(text.replace("&", "and").split())
    tokens = [word.strip(".,'") for word in text.split()]
    plain = all(re.fullmatch(r"[A-Za-z]+('[a-z]{1,2})?|", w) and len(w) < 16 for w in tokens)
    cased = all(w.islower() or w[1:].islower() or len(w) < 5 for w in tokens if w)
    return text.strip(" ,") if plain and cased and any(tokens) else None


def letters(text: str) -> list[int]:
    """Classes of a spoken text: its folded words with SPACE between them."""
    line = " ".join(word for word, _, _ in words.split(text))
    return [SPACE if c == " " else LATIN.index(c) for c in line]


def texts(data: Path, corpus: Path | None) -> Callable[[random.Random], str]:
    """A function that draws a text. corpus: `corpus.json` of stage collect, for its titles."""
    short = [said(short) for _, short, _ in descriptions(data)]
    glosses, lemmas = wordnet(data / "pkg" / "wordnet-base")
    titles: list[str] = []
    if corpus is not None and corpus.exists():
        titles = sayable([t for t, _ in json.loads(corpus.read_text())["queries"]], glosses)
    kinds = [
        [t for t in kind if t and 4 < len(t) < 90]
        for kind in (short, [said(g) for g in glosses], titles)
    ]
    single = [w for w in (said(lemma) for lemma in lemmas) if w]
    kinds = [kind for kind in kinds if kind]

    def draw(rng: random.Random) -> str:
        luck = rng.random()
        if luck < 0.06:
            return " ".join(rng.choice(LATIN).upper() for _ in range(rng.choice((1, 1, 1, 2, 3))))
        if luck < 0.12:
            return spelt_out(
                rng.choice((rng.randrange(20), rng.randrange(100), rng.randrange(9999)))
            )
        if luck < 0.15:
            return rng.choice((*CALENDAR, *ORDINALS))
        if luck < 0.27:
            return " ".join(rng.choice(single) for _ in range(rng.choice((1, 1, 1, 2, 3))))
        text = rng.choice(rng.choice(kinds))
        if rng.random() < 0.25:  # pieces of sentences as well
            parts = text.split()
            first = rng.randrange(len(parts))
            text = " ".join(parts[first : first + rng.randint(2, 6)]).strip(" ,.")
        return text

    return draw


def sayable(titles: list[str], glosses: list[str]) -> list[str]:
    """As they are spoken, those that have only words of `glosses`."""
    english = {word for gloss in glosses for word, _, _ in words.split(gloss)}
    spoken = [said(t) for t in titles if english.issuperset(w for w, _, _ in words.split(t))]
    return [title for title in spoken if title]


def wordnet(package: Path) -> tuple[list[str], list[str]]:
    """Glosses and their examples, and lemmas in small letters, of WordNet 3.0."""
    glosses, lemmas = [], []
    for kind in ("noun", "verb", "adj", "adv"):
        path = package / "usr" / "share" / "wordnet" / f"data.{kind}"
        for line in path.read_text("utf-8").splitlines():
            if line.startswith("  ") or " | " not in line:
                continue
            entry, _, gloss = line.partition(" | ")
            glosses += [part.strip(' "') for part in gloss.split(";")]
            lemma = entry.split()[4]
            if lemma.islower():
                lemmas.append(lemma.replace("_", " "))
    return glosses, lemmas


class Espeak:
    """espeak-ng's library in this process: out of the PyPI package espeakng-loader (GPL-3)."""

    def __init__(self, data: Path) -> None:
        folder = wheels.unpacked(data, ESPEAK) / "espeakng_loader"
        self.library = ctypes.CDLL(str(folder / "libespeak-ng.so"))
        voices = str(folder / "espeak-ng-data").encode()
        self.rate = self.library.espeak_Initialize(2, 0, voices, 0x8000)
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(SEED))  # some voices breathe
        self.parts: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )

        def take(wave: object, count: int, events: object) -> int:
            if wave and count > 0:
                self.parts.append(np.ctypeslib.as_array(wave, (count,)).copy())
            return 0

        self._taking = kind(take)  # the library keeps no reference of its own
        self.library.espeak_SetSynthCallback(self._taking)

    def __call__(self, text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
        """speed: words a minute; pitch: 0 to 99."""
        if self.library.espeak_SetVoiceByName(voice.encode()):
            raise ValueError(f"espeak-ng has no voice {voice!r}")
        self.library.espeak_SetParameter(1, speed, 0)
        self.library.espeak_SetParameter(3, pitch, 0)
        self.parts.clear()
        line = text.encode()
        self.library.espeak_Synth(line, len(line) + 1, 0, 1, 0, 1, None, None)
        self.library.espeak_Synchronize()
        samples = np.concatenate([np.zeros(1, np.int16), *self.parts]).astype(np.float32) / 32768
        return soxr.resample(samples, self.rate, RATE)


class Flite:
    """The command flite, out of the Debian packages flite and libflite1, unpacked."""

    def __init__(self, data: Path) -> None:
        self.command = data / "pkg" / "flite" / "usr" / "bin" / "flite"
        libraries = data / "pkg" / "libflite1" / "usr" / "lib" / "x86_64-linux-gnu"
        self.environment = {"LD_LIBRARY_PATH": str(libraries)}

    def __call__(self, text: str, voice: str, stretch: float, tone: float | None) -> np.ndarray:
        """stretch: of all durations; tone: mean pitch in hertz, None: the voice's own."""
        options = ["--setf", f"duration_stretch={stretch:.2f}"]
        if tone is not None:
            options += ["--setf", f"int_f0_target_mean={tone:.0f}"]
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            command = [
                str(self.command),
                "-voice",
                voice,
                *options,
                "-t",
                f"{text} ",
                "-o",
                file.name,
            ]
            subprocess.run(command, env=self.environment, check=True, stderr=subprocess.DEVNULL)
            samples, rate = soundfile.read(file.name, dtype="float32")
        return soxr.resample(samples, rate, RATE)


@dataclass
class Speaker:
    """Speaks texts with a voice, a speed and a pitch drawn anew each time."""

    data: Path
    espeak: Espeak = field(init=False)
    flite: Flite = field(init=False)
    real: list[tuple[Path, str]] = field(init=False)

    def __post_init__(self) -> None:
        self.espeak, self.flite = Espeak(self.data), Flite(self.data)
        self.real = tuxpaint(self.data / "pkg" / "tuxpaint-stamps-default")

    def __call__(self, rng: random.Random, text: str) -> tuple[np.ndarray, str]:
        """Samples at RATE, trimmed, the loudest 1, and what they say (a real voice says its own)."""
        luck = rng.random()
        if luck < 0.01 and self.real:
            path, text = rng.choice(self.real)
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
            samples = soxr.resample(samples.mean(1), rate / rng.uniform(0.9, 1.1), RATE)
        elif luck < 0.5:
            voice = rng.choice([*FLITE[2:], *FLITE])
            while voice in UNSEEN:
                voice = rng.choice(FLITE)
            natural = {"slt": 175, "kal": 105, "kal16": 105, "awb": 130}[voice]
            tone = rng.choice((None, natural * rng.uniform(0.75, 1.35)))
            samples = self.flite(text, voice, rng.uniform(0.75, 1.4), tone)
            if rng.random() < 0.5:  # a longer or shorter throat: other formants
                samples = soxr.resample(samples, RATE, RATE * rng.uniform(0.87, 1.15))
        else:
            voice = f"{rng.choice(ACCENTS)}+{rng.choice(VARIANTS)}"
            samples = self.espeak(text, voice, rng.randint(110, 210), rng.randint(15, 85))
        return trimmed(samples), text

    def unseen(self, text: str, number: int) -> np.ndarray:
        """The text by one of the two voices that no training has heard."""
        if number % 2 == 0:
            return trimmed(self.flite(text, UNSEEN[0], 1.0, None))
        return trimmed(self.espeak(text, UNSEEN[1], 150, 50))


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Without the silence before and after, the loudest sample 1."""
    loud = np.flatnonzero(np.abs(samples) > 0.01 * max(1e-4, float(np.abs(samples).max())))
    samples = samples[loud[0] : loud[-1] + 1] if len(loud) else np.zeros(RATE // 10, np.float32)
    return (samples / max(1e-4, float(np.abs(samples).max()))).astype(np.float32)


def tuxpaint(package: Path) -> list[tuple[Path, str]]:
    """English voices that name stamps, and what they say (the stamp's caption)."""
    found = []
    for path in sorted(package.rglob("*_desc.ogg")):
        caption = path.with_name(path.name.replace("_desc.ogg", ".txt"))
        if caption.exists():
            text = said(caption.read_text("utf-8").splitlines()[0])
            if text:
                found.append((path, text))
    return found


def spoilt(rng: random.Random, samples: np.ndarray) -> np.ndarray:
    """A window as a room, a telephone and a cheap microphone leave it."""
    noise = np.random.default_rng(rng.randrange(1 << 30))
    count = len(samples)
    if rng.random() < 0.3:
        length = int(RATE * rng.uniform(0.1, 0.5))
        tail = noise.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length)
        tail *= rng.uniform(0.05, 0.3) / np.sqrt((tail**2).sum())
        tail[0] = 1
        size = 1 << (count + length).bit_length()
        wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(tail, size), size)
        samples = wet[:count].astype(np.float32)
    if rng.random() < 0.7:
        spectrum = np.fft.rfft(noise.standard_normal(count))
        spectrum *= np.maximum(np.arange(len(spectrum)), 20.0) ** -rng.choice((0.0, 0.5, 0.5, 1.0))
        hiss = np.fft.irfft(spectrum, count)
        loud = np.sqrt((samples**2).mean()) / 10 ** (rng.uniform(5, 45) / 20)
        samples = samples + (hiss * loud / hiss.std()).astype(np.float32)
    if rng.random() < 0.5:
        samples = soxr.resample(soxr.resample(samples, RATE, 8000), 8000, RATE)[:count]
    peak = max(1e-4, float(np.abs(samples).max()))
    return (samples * (10 ** (rng.uniform(-25, 0) / 20) / peak)).astype(np.float32)


@dataclass
class Window:
    """samples at RATE; of each utterance its span in samples (with its share of the pauses)."""

    samples: np.ndarray
    spans: list[tuple[int, int]]
    texts: list[str]


def windows(
    rng: random.Random, draw: Callable[[random.Random], str], speak: Speaker
) -> Iterator[Window]:
    """Windows without end: half of them full (30 s), half of 2.5 to 15 s."""
    while True:
        most = int(RATE * (30 if rng.random() < 0.5 else rng.uniform(2.5, 15)))
        parts: list[np.ndarray] = []
        edges, texts = [0], []
        end = 0
        while True:
            samples, text = speak(rng, draw(rng))
            pause = int(RATE * rng.choice((rng.uniform(0.05, 0.4), rng.uniform(0.2, 1.5))))
            if end + pause + len(samples) > most:
                break
            if texts:
                edges.append(end + pause // 2)
            parts += [np.zeros(pause, np.float32), samples * 10 ** (rng.uniform(-12, 0) / 20)]
            end += pause + len(samples)
            texts.append(text)
        if not texts:
            continue
        rest = min(most - end, int(RATE * rng.uniform(0.05, 1)))
        whole = np.concatenate([*parts, np.zeros(rest, np.float32)])
        edges.append(len(whole))
        spans = list(itertools.pairwise(edges))
        yield Window(spoilt(rng, whole), spans, texts)


def write(made: list[Window], encoder: whisper_weights.Whisper, target: Path) -> None:
    """Frames and letters of these windows as one shard."""
    frames, spans, classes, offsets, first = [], [], [], [0], 0
    with torch.inference_mode():
        for window in made:
            found = encoder(log_mel(torch.from_numpy(window.samples))[None])[0]
            frames.append(found.half())
            for (start, stop), text in zip(window.spans, window.texts, strict=True):
                spans.append((first + start // FRAME, first + min(len(found), stop // FRAME)))
                classes += letters(text)
                offsets.append(len(classes))
            first += len(found)
    stored = {
        "frames": torch.cat(frames),
        "spans": torch.tensor(spans),
        "letters": torch.tensor(classes, dtype=torch.uint8),
        "offsets": torch.tensor(offsets),
    }
    part = target.with_suffix(".part")
    save_file(stored, str(part))
    part.replace(target)


def make(data: Path, out: Path, corpus: Path | None, shards: int) -> list[Path]:
    """The shards, those that are there already left as they are. Each has a seed of its own."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{i:03}.safetensors" for i in range(shards)]
    if all(path.exists() for path in paths):
        return paths
    speak, draw, encoder = Speaker(data), texts(data, corpus), whisper_weights.encoder(data)
    for i, path in enumerate(paths):
        if not path.exists():
            stream = windows(random.Random(SEED + i), draw, speak)
            write([next(stream) for _ in range(WINDOWS)], encoder, path)
            print(f"{path.name} of {shards}", flush=True)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, help="corpus.json of train_mini.py's stage collect")
    parser.add_argument("--shards", type=int, default=30)
    args = parser.parse_args()
    make(args.data, args.out, args.corpus, args.shards)


if __name__ == "__main__":
    main()
