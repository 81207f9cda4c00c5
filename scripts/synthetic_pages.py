"""Pages drawn from fonts: what people have and public manuals lack, with labelled characters.

The training PDFs are set in a handful of typefaces; letters, slides and forms come in hundreds.
Text is real (runs of words from the corpus), set in random fonts, sizes, colours and layouts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from layout_data import Corpus
from page_data import Crop, characters, cut
from PIL import Image, ImageDraw, ImageFont

from modalities import pdf

SKIPPED = (
    "emoji",
    "symbol",
    "math",
    "dingbat",
    "d050000l",
    "s050000l",
    "standardsymbols",
    "fallback",
)
SIZE = (560, 460)  # of a drawn piece of page: wider and higher than a crop
ASCENT, DESCENT = 0.85, 0.25  # of the line that a text layer gives a character, in ems
ACCENTS = {"a": "áàäâãå", "e": "éèëê", "i": "íìïî", "o": "óòöôõø", "u": "úùüû", "n": "ñ", "c": "ç"}


def typefaces(folder: Path) -> list[list[Path]]:
    """Latin text fonts below `folder`, by family folder, so that a family of a hundred cuts does
    not count more than one of four. Fonts of other scripts are told by their names."""
    families: dict[Path, list[Path]] = {}
    for path in sorted([*folder.rglob("*.ttf"), *folder.rglob("*.otf")]):
        name = path.stem.lower().replace(" ", "")
        noto = name.startswith("noto") and not name.startswith(
            ("notosans-", "notoserif-", "notosansdisplay-", "notoserifdisplay-", "notomono-")
        )
        if not noto and not any(word in name for word in SKIPPED):
            families.setdefault(path.parent, []).append(path)
    return list(families.values())


def _dressed(word: str, rng: random.Random) -> str:
    """A folded word as someone may have written it: capitals, accents, punctuation."""
    chance = rng.random()
    if chance < 0.25:
        word = word.capitalize()
    elif chance < 0.32:
        word = word.upper()
    elif chance < 0.36:
        word = "".join(rng.choice(ACCENTS.get(c, c)) if rng.random() < 0.3 else c for c in word)
    elif chance < 0.4:
        word = str(rng.randrange(10 ** rng.randint(1, 6)))
    if rng.random() < 0.15:
        word += rng.choice(".,:;!?")
    elif rng.random() < 0.04:
        word = rng.choice(("({})", '"{}"', "[{}]", "{}-")).format(word)
    return word


def draw(
    rng: random.Random, families: list[list[Path]], corpus: Corpus
) -> tuple[Image.Image, pdf.Glyphs]:
    """A piece of page at 100 dpi, grey, and its text layer."""
    width, height = SIZE
    paper, print_ = rng.randint(205, 255), rng.randint(0, 90)
    if rng.random() < 0.12:
        paper, print_ = print_, paper
    image = Image.new("L", SIZE, paper)
    canvas = ImageDraw.Draw(image)
    faces = [rng.choice(rng.choice(families)) for _ in range(2)]
    body = float(np.exp(rng.uniform(np.log(9.5), np.log(26))))  # pixels of an em: 7 to 19 points
    at = rng.randrange(max(1, len(corpus.ids) - 400))
    text: list[str] = []
    boxes: list[tuple[float, float, float, float]] = []
    base: list[float] = []
    y = rng.uniform(0, 2) * body
    while y < height:
        heading = rng.random() < 0.2
        size = body * (rng.uniform(1.1, 2.2) if heading else 1)
        font = ImageFont.truetype(str(faces[heading]), size)
        left = rng.choice((8, 8, 30, 60)) + rng.uniform(0, 8)
        leading = size * rng.uniform(1.12, 1.8)
        for _ in range(1 if heading else rng.randint(1, 6)):
            y += leading
            line = ""
            for _ in range(rng.randint(2, 14)):
                if at >= len(corpus.ids):
                    at = 0
                line += _dressed(corpus.vocabulary[corpus.ids[at]], rng) + " "
                at += 1
            canvas.text((left, y), line, fill=print_, font=font, anchor="ls")
            edges = [left + font.getlength(line[:i]) for i in range(len(line) + 1)]
            for i, character in enumerate(line):
                text.append(character)
                blank = character.isspace()
                x0, x1 = edges[i] / width, edges[i + 1] / width
                top, bottom = (y - ASCENT * size) / height, (y + DESCENT * size) / height
                boxes.append((0, 0, 0, 0) if blank else (x0, top, x1, bottom))
                base.append(y / height)
        y += size * rng.uniform(0, 1.2)
    table = np.array(boxes, np.float32).reshape(-1, 4)
    return image, pdf.Glyphs("".join(text), table, np.array(base, np.float32))


def crops(fonts: Path, corpus: Corpus, size: tuple[int, int], seed: int) -> Iterator[Crop]:
    """Endless crops (rows, columns) of drawn pages. Raises ValueError where there are no fonts."""
    families = typefaces(fonts)
    if not families:
        raise ValueError(f"{fonts}: no .ttf or .otf files there; scripts/get_data.sh fetches some")
    rng = random.Random(seed)
    while True:
        try:
            image, glyphs = draw(rng, families, corpus)
        except OSError:  # a font that FreeType cannot draw with
            continue
        chars = characters(glyphs)
        if len(chars.x) >= 30:
            for _ in range(2):
                yield cut(image, chars, size, rng)
