"""Writes tests/recordings: sentences of ours (CC0), spoken by flite's voice rms, which no training
has heard.

    python scripts/make_recordings.py DATA

DATA: as of speech_data.py, with the Debian packages flite and libflite1 unpacked.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import soundfile
import speech_data

from modalities.hearing import RATE

FOLDER = Path(__file__).parent.parent / "tests" / "recordings"
TEXTS = {
    "question.flac": ["Set the rain gauge counter back to zero."],
    "bread.flac": ["Knead the dough for ten minutes.", "Let it rise until morning."],
}
PAUSE = 0.8  # seconds between two sentences


def main() -> None:
    speak = speech_data.Flite(Path(sys.argv[1]))
    FOLDER.mkdir(exist_ok=True)
    for name, texts in TEXTS.items():
        parts = []
        for text in texts:
            parts += [speech_data.trimmed(speak(text, speech_data.UNSEEN[0], 1.0, None)) * 0.5]
            parts += [np.zeros(int(RATE * PAUSE), np.float32)]
        soundfile.write(FOLDER / name, np.concatenate(parts[:-1]), RATE, subtype="PCM_16")


if __name__ == "__main__":
    main()
