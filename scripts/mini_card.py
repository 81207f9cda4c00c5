"""Stage "card" of train_mini: the model card of the model that ships, beside its weights.

What it is, its data with their licences, how it was trained and where its limits are stand here;
every number comes out of the newest lines of scripts/results, so that none can be out of date.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results import FOLDER

import lateint
from lateint.card import Card, DataFacts, Facts, write_card

TARGET = Path(__file__).parent.parent / "modalities" / "weights" / "README.md"
BASE = (
    "google/efficientnet-lite0 (pictures)",
    "openai/whisper-tiny.en (speech)",
    "sentence-transformers/all-MiniLM-L6-v2 (taught the meanings of words)",
)
TEXT = """The model that comes with lateint: it reads pages as pixels, sees pictures, hears English speech
and knows what words of 29 languages mean, in one space, on a CPU, offline. `scripts/train_mini.py`
makes it; NOTICE names every source and licence."""
DATA = (
    DataFacts(
        "TeX Live's manuals, R, Erlang, Berkeley DB, LinuxCNC, PARI (Debian packages)", None,
        "LPPL, GPL, GFDL and others", "Debian", ("document: page (page)", "query: outline title (text)"),
    ),
    DataFacts("pages drawn from fonts, in Latin, Cyrillic and Greek letters, and scan noise", None,
              "", "scripts/synthetic_pages.py, scripts/scans.py", ("document: crop (page)",)),
    DataFacts("emoji, clip art, photos, icons with their names in 22 languages", None,
              "Apache-2.0, CC-BY-SA-4.0, GPL-2, public domain, ISC", "scripts/picture_data.py",
              ("document: picture (image)", "query: name (text)")),
    DataFacts("speech of espeak-ng and flite saying Debian's descriptions and WordNet's words", None,
              "GPL-3 and flite's", "scripts/speech_data.py", ("query: speech (audio)",)),
    DataFacts("named sounds of sonic-pi-samples, sound-theme-freedesktop, Tux Paint", None,
              "CC0, GPL-2", "scripts/sound_data.py", ("document: sound (audio)", "query: name (text)")),
    DataFacts("translated package descriptions, help and manual pages", None,
              "as the packages", "scripts/lexicon_data.py", ("words and how they are translated",)),
)  # fmt: skip
GOALS = (
    "read: characters at their places (cross-entropy), clean Latin print, then scans and other scripts",
    "spelt, seen, sense: InfoNCE of outline titles against pages, both heads, negatives of the same document",
    "sense: translated texts and spoken ones, as they were heard, against texts that share words with them",
    "pictures: InfoNCE of names against pictures, both heads; EfficientNet-Lite0 learns with its tower",
    "speech: CTC over letters; sounds: InfoNCE of names",
)
LIMITS = """## Limits

- Page print of about 6 to 30 points at 100 dpi, in Latin letters best; handwriting, formulas, Asian and
  right-to-left scripts are not read. What a figure shows without words is not known to the page tower.
- Pictures: small drawings and some photos taught it; a photo's finer points, counting, and relations between
  things are beyond it, and so is much of what its net knew of ImageNet's classes before.
- Speech: English. Sounds: few were seen in training, and names that were not find little.
- Meanings are of single words: 77,632 of 29 languages; a sentence's sense is only what its words in order
  give.
- The single-vector head is there for speed; it finds phrases out of a page's body badly."""


def newest(name: str, key: str, value: str | None = None) -> dict[str, Any]:
    """The last line of results that has this key, with this value if one is given; {}: none has."""
    found: dict[str, Any] = {}
    for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if key in row and value in (None, row[key]):
            found = row
    return found


def rows(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """ "what / of what" and its measures, for what of a line is measured: floats, however deep."""
    found = ", ".join(
        f"{key} {value:g}" for key, value in table.items() if isinstance(value, float)
    )
    if found:
        yield " / ".join(path), found
    for key, value in table.items():
        if isinstance(value, dict) and key not in ("machine", "versions"):
            yield from rows(value, (*path, key))


def numbers() -> str:
    """Tables of what was measured on development splits, a section for each benchmark."""
    sections = [
        ("Pages: outline titles and phrases", newest("bench_pages", "table")),
        ("Seconds a page", newest("bench_pages", "seconds")),
    ]
    for section in ("pages", "languages", "pictures", "speech", "mixed", "rate"):
        sections.append((f"bench_mini: {section}", newest("bench_mini", "section", section)))
    parts = ["## Numbers\n\nDevelopment splits, which no training has seen; from scripts/results."]
    for title, line in sections:
        if line:
            found = [f"| {name} | {measures} |" for name, measures in rows(line)]
            when = f"{line['time'][:10]}, commit {line['commit']}, {line['machine']['cpu']}"
            parts.append("\n".join([f"### {title}", "", when, "", "| | |", "|---|---|", *found]))
    return "\n\n".join(parts)


def write(args: argparse.Namespace) -> None:
    """The card, with the steps that `args` (train_mini's) train for."""
    model = lateint.load()
    steps = (
        args.read_steps + args.wide_steps + args.spelt_steps + args.seen_steps + args.sense_steps
    )
    facts = Facts(
        encoders={m: type(model.encoder(m)).__name__ for m in model.encoders},
        heads={kind: model.head_dim(kind) for kind in model.heads},
        data=DATA,
        goals=GOALS,
        arguments={},
        history=(),
        step=steps + args.speech_steps,
        place="",
    )
    card = Card("lateint-mini", "Apache-2.0", ("en", "multilingual"), BASE, TEXT)
    TARGET.write_text("\n".join([write_card(card, facts), numbers(), "", LIMITS, ""]), "utf-8")
    print(f"{TARGET}: {TARGET.stat().st_size} bytes")
