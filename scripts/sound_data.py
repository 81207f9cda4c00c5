"""Named sounds that are no speech: what there is, how it is called, and which names are held out.

Sources: sonic-pi-samples (instruments and electronic sounds, mostly CC0), sound-theme-freedesktop
(the sounds of a desktop), tuxpaint-stamps-default (animals, engines, instruments; by the caption of
the stamp). Together some 300: enough to try with, not to learn from what the world sounds like.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modalities.hearing import RATE
from modalities.media import open_audio, resample

PACKAGES = ("sonic-pi-samples", "sound-theme-freedesktop", "tuxpaint-stamps-default")
HELD = 4  # one name in so many is held out
MOST_SECONDS = 8.0  # of a sound that are heard
# What sonic-pi's abbreviations stand for.
WRITTEN_OUT = {
    "ambi": "ambient", "bd": "bass drum", "sn": "snare drum", "elec": "electric",
    "perc": "percussion", "guit": "guitar", "hi": "high", "lo": "low", "mid": "middle",
    "filt": "filtered", "misc": "", "loop": "loop", "till": "cash till", "em9": "chord",
    "voxy": "voice", "808": "", "dnb": "drum and bass",
}  # fmt: skip
SPEECH = re.compile(r"audio-channel|audio-test")  # of the desktop's sounds: a voice says which


@dataclass(frozen=True)
class Sound:
    """A sound's file, its name as words, and whether the name is held out of training."""

    path: Path
    name: str

    @property
    def held(self) -> bool:
        """By the name, so that a sound of the same name is never on the other side."""
        return hashlib.sha256(f"sound {self.name}".encode()).digest()[0] % HELD == 0

    def samples(self) -> np.ndarray:
        """(n,) fp32 at 16 kHz, the first MOST_SECONDS."""
        return resample(open_audio(self.path, seconds=MOST_SECONDS), RATE)


def sounds(data: Path) -> list[Sound]:
    """All of them, in a fixed order."""
    found = []
    for package in PACKAGES:
        folder = data / "pkg" / package
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".flac", ".oga", ".ogg", ".wav"):
                name = _name(package, path)
                if name:
                    found.append(Sound(path, name))
    return found


def _name(package: str, path: Path) -> str:
    """The words for a sound; nothing for speech and for what has no words."""
    stem = path.stem
    if package == "tuxpaint-stamps-default":
        caption = path.with_suffix(".txt")
        if not caption.exists() or "symbols" in path.parts:
            return ""
        line = caption.read_text("utf-8").splitlines()[0]
        return " ".join(re.findall(r"[a-z']+", line.lower().replace("’", "'")))
    if package == "sound-theme-freedesktop":
        return "" if SPEECH.search(stem) else stem.replace("-", " ")
    if "buffers" in path.parts:
        return ""
    parts = [re.sub(r"(?<=[a-z])\d+$", "", part) for part in stem.split("_")]
    parts = [WRITTEN_OUT.get(part, part) for part in parts if len(part) > 1]
    return " ".join(part for part in parts if part and not part.isdigit())
