"""Pages drawn from fonts: what people have and public manuals lack, with labelled characters.

The training PDFs are set in a handful of typefaces and one script; letters, slides and forms come
in hundreds. Text is real: runs of words from the corpus, Russian and Ukrainian descriptions of
Debian packages, Greek names out of the Unicode CLDR. It is set in random fonts, sizes, shades and
layouts: prose, two columns, tables, slides; light on dark, on tints and on bands.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
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
SCRIPTS = {"latin": 0.55, "cyrillic": 0.3, "greek": 0.15}  # shares of the drawn pages
LETTER = {"latin": "g", "cyrillic": "ж", "greek": "ψ"}  # that a font of the script can draw


def typefaces(folder: Path) -> list[list[Path]]:
    """Text fonts below `folder`, by family folder, so that a family of a hundred cuts does not
    count more than one of four. Fonts of scripts that no one asked for are told by their names."""
    families: dict[Path, list[Path]] = {}
    for path in sorted([*folder.rglob("*.ttf"), *folder.rglob("*.otf")]):
        name = path.stem.lower().replace(" ", "")
        noto = name.startswith("noto") and not name.startswith(
            ("notosans-", "notoserif-", "notosansdisplay-", "notoserifdisplay-", "notomono-")
        )
        if not noto and not any(word in name for word in SKIPPED):
            families.setdefault(path.parent, []).append(path)
    return list(families.values())


@cache
def draws(path: Path, character: str) -> bool:
    """Whether the font has a shape for the character: another one than for what no font has."""
    font = ImageFont.truetype(str(path), 24)
    shape, none = (bytes(font.getmask(c)) for c in (character, "\U0010fffe"))
    return bool(shape.strip(b"\0")) and shape != none


def other_texts(data: Path) -> dict[str, list[str]]:
    """Running words in other scripts below `data`, as written; a script without any is left out.

    DATA/translations/{ru,uk,el}/lists (apt's descriptions of packages) and the Greek of
    DATA/pkg/unicode-cldr-core, which scripts/get_data.sh fetches.
    """
    sources = {
        "cyrillic": [p for name in ("ru", "uk") for p in _translations(data, name)],
        "greek": [
            *_translations(data, "el"),
            *sorted((data / "pkg" / "unicode-cldr-core").rglob("common/annotations/el.xml")),
            *sorted((data / "pkg" / "unicode-cldr-core").rglob("common/main/el.xml")),
        ],
    }
    found = {}
    for script, files in sources.items():
        text = "\n".join(path.read_text(encoding="utf-8") for path in files)
        lines = re.sub(r"(?m)^(Package|Description-md5): .*$|^Description-\w+:|<[^>]*>", "", text)
        letters = {"cyrillic": "[Ѐ-ӿ]", "greek": "[Ͱ-Ͽ]"}[script]
        words = [w for line in lines.split("\n") if re.search(letters, line) for w in line.split()]
        if words:
            found[script] = [w[:30] for w in words if w not in {".", "|"}]
    return found


def _translations(data: Path, language: str) -> list[Path]:
    lists = data / "translations" / language / "lists"
    return sorted(lists.glob(f"*Translation-{language}")) if lists.is_dir() else []


def _dressed(word: str, rng: random.Random, accents: bool) -> str:
    """A word as someone may have written it: capitals, accents, numbers, punctuation."""
    chance = rng.random()
    if chance < 0.25:
        word = word.capitalize()
    elif chance < 0.32:
        word = word.upper()
    elif chance < 0.36 and accents:
        word = "".join(rng.choice(ACCENTS.get(c, c)) if rng.random() < 0.3 else c for c in word)
    elif chance < 0.4:
        word = str(rng.randrange(10 ** rng.randint(1, 6)))
    if rng.random() < 0.15:
        word += rng.choice(".,:;!?")
    elif rng.random() < 0.04:
        word = rng.choice(("({})", '"{}"', "[{}]", "{}-")).format(word)
    return word


@dataclass
class Sheet:
    """A piece of page being set: its picture and its text layer so far."""

    rng: random.Random
    image: Image.Image
    fill: int
    paper: int
    words: Iterator[str]
    faces: tuple[Path, Path]  # of the body, of headings
    text: list[str] = field(default_factory=list)
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    base: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.canvas = ImageDraw.Draw(self.image)

    def font(self, size: float, heading: bool = False) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(self.faces[heading]), size)

    def line(self, font: ImageFont.FreeTypeFont, width: float, most: int = 14) -> str:
        """Some words that fit into a width (at least one, fitting or not)."""
        line = next(self.words) + " "
        for _ in range(self.rng.randint(0, most - 1)):
            word = next(self.words) + " "
            if font.getlength(line + word) > width:
                break
            line += word
        return line

    def write(
        self, x: float, y: float, line: str, font: ImageFont.FreeTypeFont, fill: int | None = None
    ) -> None:
        """A line from x on the base line y, with its boxes in the text layer."""
        width, height = self.image.size
        ink = self.fill if fill is None else fill
        self.canvas.text((x, y), line, fill=ink, font=font, anchor="ls")
        steps = np.cumsum([0.0, *(font.getlength(c) for c in line)])  # kerning: shared out
        edges = (x + steps * (font.getlength(line) / max(steps[-1], 1e-6))).tolist()
        top, bottom = (y - ASCENT * font.size) / height, (y + DESCENT * font.size) / height
        for i, character in enumerate(line):
            self.text.append(character)
            x0, x1 = edges[i] / width, edges[i + 1] / width
            self.boxes.append((0, 0, 0, 0) if character.isspace() else (x0, top, x1, bottom))
            self.base.append(y / height)

    def glyphs(self) -> pdf.Glyphs:
        table = np.array(self.boxes, np.float32).reshape(-1, 4)
        return pdf.Glyphs("".join(self.text), table, np.array(self.base, np.float32))


def prose(sheet: Sheet, left: float = 0, right: float = SIZE[0]) -> None:
    """Headings and paragraphs between two margins."""
    rng = sheet.rng
    body = float(np.exp(rng.uniform(np.log(9.5), np.log(26))))  # pixels of an em: 7 to 19 points
    if right - left < SIZE[0]:
        body = min(body, 15.0)
    y = rng.uniform(0, 2) * body
    while y < sheet.image.height:
        heading = rng.random() < 0.2
        size = body * (rng.uniform(1.1, 2.2) if heading else 1)
        font = sheet.font(size, heading)
        x = left + rng.choice((8, 8, 30, 60)) + rng.uniform(0, 8)
        leading = size * rng.uniform(1.12, 1.8)
        for _ in range(1 if heading else rng.randint(1, 6)):
            y += leading
            line = sheet.line(font, right - x)
            sheet.write(x, y, line, font)
            if heading and rng.random() < 0.2:
                under = y + 0.2 * size
                sheet.canvas.line((x, under, x + font.getlength(line), under), fill=sheet.fill)
        y += size * rng.uniform(0, 1.2)


def columns(sheet: Sheet) -> None:
    """Two columns, with a rule between them or not."""
    middle, gap = SIZE[0] * sheet.rng.uniform(0.4, 0.6), sheet.rng.uniform(8, 24)
    prose(sheet, 0, middle - gap)
    prose(sheet, middle, SIZE[0])
    if sheet.rng.random() < 0.3:
        x = middle - gap / 2
        sheet.canvas.line((x, 0, x, SIZE[1]), fill=sheet.fill)


def table(sheet: Sheet) -> None:
    """Rows of short cells: ruled, striped or bare, words and numbers, a head in bold or on a band."""
    rng, canvas = sheet.rng, sheet.canvas
    size = rng.uniform(8.5, 15)
    font, bold = sheet.font(size), sheet.font(size, heading=True)
    edges = sorted({0.0, *(rng.uniform(60, SIZE[0] - 60) for _ in range(rng.randint(1, 5)))})
    pitch, y = size * rng.uniform(1.3, 2.2), rng.uniform(0, 40)
    ruled, striped, numbers = rng.random() < 0.5, rng.random() < 0.35, rng.random() < 0.5
    light, dark = sheet.paper, sheet.fill
    stripe = int(light + (dark - light) * rng.uniform(0.05, 0.2))
    row, head = 0, rng.random() < 0.4
    while y < SIZE[1]:
        band = head and row == 0
        if band:
            canvas.rectangle((0, y, SIZE[0], y + pitch), fill=dark)
        elif striped and row % 2:
            canvas.rectangle((0, y, SIZE[0], y + pitch), fill=stripe)
        for x, end in zip(edges, [*edges[1:], SIZE[0]], strict=True):
            if rng.random() < 0.1 or end - x < 3 * size:
                continue
            face = bold if row == 0 else font
            number = numbers and x > 0 and row and rng.random() < 0.7
            cell = (
                f"{rng.randrange(10 ** rng.randint(1, 5))}{rng.choice(('', '%', '.5', ' kg'))} "
                if number
                else sheet.line(face, end - x - 8, most=4)
            )
            if face.getlength(cell) <= end - x:
                base = y + (pitch + 0.7 * size) / 2
                sheet.write(x + 4, base, cell, face, light if band else None)
            if ruled:
                canvas.line((x, y, x, y + pitch), fill=dark)
        if ruled:
            canvas.line((0, y, SIZE[0], y), fill=dark)
        y += pitch
        row += 1


def slide(sheet: Sheet) -> None:
    """A title, perhaps on a band, and bullets in large print."""
    rng, canvas = sheet.rng, sheet.canvas
    title, size = rng.uniform(22, 44), rng.uniform(14, 30)
    y, left = rng.uniform(0, 30), rng.uniform(10, 50)
    font = sheet.font(title, heading=True)
    fill = None
    if rng.random() < 0.5:
        shade = rng.choice((sheet.fill, int((sheet.fill + 2 * sheet.paper) / 3)))
        canvas.rectangle((0, y, SIZE[0], y + 1.8 * title), fill=shade)
        fill = sheet.paper if abs(shade - sheet.paper) > 90 else None
    y += 1.25 * title
    sheet.write(left, y, sheet.line(font, SIZE[0] - left, most=6), font, fill)
    y += title
    font = sheet.font(size)
    while y < SIZE[1]:
        indent = left + rng.choice((0, 0, 30))
        y += size * rng.uniform(1.2, 2)
        mark = 0.15 * size
        middle = y - 0.3 * size
        canvas.ellipse(
            (indent - mark, middle - mark, indent + mark, middle + mark), fill=sheet.fill
        )
        for _ in range(rng.randint(1, 2)):
            sheet.write(indent + size, y, sheet.line(font, SIZE[0] - indent - size, 9), font)
            y += 1.25 * size


LAYOUTS = {prose: 0.55, columns: 0.12, table: 0.15, slide: 0.18}


class Drawer:
    """Draws pieces of page. Raises ValueError where there are no fonts."""

    def __init__(self, fonts: Path, corpus: Corpus, others: dict[str, list[str]]) -> None:
        self.families = typefaces(fonts)
        if not self.families:
            raise ValueError(f"{fonts}: no .ttf or .otf files there; scripts/get_data.sh fetches")
        self.corpus, self.others = corpus, others
        self.scripts = {s: share for s, share in SCRIPTS.items() if s == "latin" or s in others}

    def face(self, rng: random.Random, script: str) -> Path:
        """A font that can draw the script."""
        while True:
            path = rng.choice(rng.choice(self.families))
            try:
                if draws(path, LETTER[script]):
                    return path
            except OSError:  # a font that FreeType cannot open
                continue

    def running(self, rng: random.Random, script: str) -> Iterator[str]:
        """Words from a random place on; of another script's now and then a Latin one."""
        latin: Sequence[int] = self.corpus.ids  # type: ignore[assignment]
        at = rng.randrange(len(latin))
        if script == "latin":
            while True:
                yield _dressed(self.corpus.vocabulary[latin[at]], rng, accents=True)
                at = (at + 1) % len(latin)
        own = self.others[script]
        place = rng.randrange(len(own))
        while True:
            if rng.random() < 0.04:
                yield _dressed(self.corpus.vocabulary[latin[at]], rng, accents=False)
                at = (at + 1) % len(latin)
            elif rng.random() < 0.7:
                yield own[place]
            else:
                yield _dressed(own[place], rng, accents=False)
            place = (place + 1) % len(own)

    def draw(self, rng: random.Random, script: str | None = None) -> Sheet:
        """A piece of page at 100 dpi, grey."""
        script = script or rng.choices([*self.scripts], [*self.scripts.values()])[0]
        paper, fill = rng.randint(205, 255), rng.randint(0, 90)
        if rng.random() < 0.12:
            paper, fill = fill, paper
        image = Image.new("L", SIZE, paper)
        faces = (self.face(rng, script), self.face(rng, script))
        sheet = Sheet(rng, image, fill, paper, self.running(rng, script), faces)
        rng.choices([*LAYOUTS], [*LAYOUTS.values()])[0](sheet)
        return sheet


def crops(drawer: Drawer, size: tuple[int, int], seed: int, hard: float = 0.5) -> Iterator[Crop]:
    """Endless crops (rows, columns) of drawn pages. hard: see `page_data.cut`."""
    rng = random.Random(seed)
    while True:
        try:
            sheet = drawer.draw(rng)
        except OSError:  # a font that FreeType cannot draw with
            continue
        chars = characters(sheet.glyphs())
        if len(chars.x) >= 30:
            for _ in range(3):
                yield cut(sheet.image, chars, size, rng, hard)
