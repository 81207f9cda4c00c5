"""Pictures with words: emoji of two drawing styles, clip art, photos and icons, with their names.

    scripts/get_pictures.sh DATA
    python scripts/picture_data.py DATA

draws some 10,000 pictures of public packages into DATA/pictures/drawn (PNG with their
transparency, at most 256 pixels a side) and writes what they are called, in up to twenty
languages, to pictures.jsonl beside them. Sources: Noto's emoji (bitmaps of the font) and OpenMoji,
named by Unicode's CLDR; the stamps of Tux Paint with their captions; Open Clip Art by title and
keywords; icons of Material Design and Lucide with their tags.

The split is by word. One in twelve content words is *held out* (`is_held`): a picture with such a
word in its name, in whichever source, is for measuring only, and the word is nobody's keyword in
training, nor is any name of such a picture in another language. So a held-out concept is neither
seen nor asked for before.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from modalities import words

SIDE = 256  # pixels of the longer side of a drawn picture
HELD = 12  # one word in so many is held out
LANGUAGES = (
    *("en", "fr", "de", "es", "it", "pt", "nl", "sv", "da", "no", "pl", "cs", "ro"),
    *("fi", "hu", "tr", "hr", "ca", "ru", "uk", "bg", "el"),
)
# Pictures of a source: a random choice, and further ones of which only what may be trained on is drawn, so
# that what is measured stays the same.
MOST = {"openclipart": 1000, "mdi": 500, "lucide": 500}
FURTHER = {"openclipart": 4000, "mdi": 1500, "lucide": 1500}
EMOJI = ("noto", "openmoji")
Draw = Callable[[], "Image.Image | None"]

# words of names that say nothing of what is to be seen, or stand in too many names to hold out
COMMON = frozenset(
    """a an the of on in at with and or to for from by no not is it its this that face person man
    woman men women people boy girl button symbol sign icon mark skin tone light medium dark red
    green blue yellow orange purple white black brown pink grey gray left right up down small large
    big old new open closed high low double one two three four five six seven eight nine ten first
    second hand hands heart flag arrow circle square letter digit box animal food very some his her
    two pair photo picture drawing image color colored clip art simple cartoon outline off plus
    minus check x alert add remove variant number american language""".split()
)


@dataclass
class Picture:
    """One drawn picture. names: language -> what it is called; keywords: language -> what it
    has to do with; held: whether it is for measuring only; turns: whether its mirror image is
    still called so; further: beyond MOST; group: CLDR's or the source's own."""

    key: str
    source: str
    file: str
    concept: str
    group: str
    names: dict[str, list[str]] = field(default_factory=dict)
    keywords: dict[str, list[str]] = field(default_factory=dict)
    held: bool = False
    turns: bool = True
    further: bool = False

    @property
    def name(self) -> str:
        return self.names["en"][0]

    @property
    def icon(self) -> bool:
        """Of one dark colour."""
        return self.source in ("mdi", "lucide")


def content(text: str) -> list[str]:
    """The words of an English name that say what is to be seen, folded, plurals cut."""
    found = [word for word, _, _ in words.split(text)]
    found = [
        w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in found
    ]
    return [w for w in found if w not in COMMON and not w.isdigit() and len(w) > 1]


def is_held(text: str) -> bool:
    """Whether an English name has a word that is held out."""
    return any(zlib.crc32(word.encode()) % HELD == 0 for word in content(text))


class Annotations:
    """CLDR's names and keywords of emoji, by language. Keys are emoji without FE0F."""

    def __init__(self, cldr: Path) -> None:
        self.names: dict[str, dict[str, str]] = {}
        self.keywords: dict[str, dict[str, list[str]]] = {}
        for language in LANGUAGES:
            for folder in ("annotations", "annotationsDerived"):
                path = cldr / folder / f"{language}.xml"
                if not path.exists():
                    continue
                for entry in ElementTree.parse(path).getroot().iter("annotation"):
                    emoji, text = entry.get("cp", "").replace("\ufe0f", ""), entry.text or ""
                    if entry.get("type") == "tts":
                        self.names.setdefault(emoji, {})[language] = text
                    else:
                        found = [t.strip() for t in text.split("|")]
                        self.keywords.setdefault(emoji, {})[language] = found

    def fill(self, picture: Picture, emoji: str) -> None:
        """Names and keywords of an emoji; a name is no keyword as well."""
        bare = emoji.replace("\ufe0f", "")
        for language, name in self.names.get(bare, {}).items():
            picture.names.setdefault(language, []).append(name)
        for language, found in self.keywords.get(bare, {}).items():
            rest = [k for k in found if k not in picture.names.get(language, ())]
            picture.keywords.setdefault(language, []).extend(rest)


def plain(emoji: str) -> bool:
    """No skin tone, hair or keycap variant of another emoji."""
    return not any(0x1F3FB <= ord(c) <= 0x1F3FF or 0x1F9B0 <= ord(c) <= 0x1F9B3 for c in emoji)


def noto(data: Path, cldr: Annotations) -> Iterator[tuple[Picture, Draw]]:
    """The bitmaps of Noto Color Emoji that CLDR names."""
    from fontTools.ttLib import TTFont

    font = TTFont(next((data / "pkg/fonts-noto-color-emoji").rglob("NotoColorEmoji.ttf")))
    glyphs = font.getBestCmap()
    spelt = {name: chr(code) for code, name in glyphs.items()}
    by_text = {chr(code): name for code, name in glyphs.items()}
    for lookup in font["GSUB"].table.LookupList.Lookup:
        for table in lookup.SubTable:
            table = getattr(table, "ExtSubTable", table)
            for first, ligatures in getattr(table, "ligatures", {}).items():
                for ligature in ligatures:
                    text = "".join(spelt.get(g, "?") for g in (first, *ligature.Component))
                    by_text.setdefault(text.replace("\ufe0f", ""), ligature.LigGlyph)
    bitmaps = font["CBDT"].strikeData[0]
    groups = _groups(data)
    for emoji in sorted(cldr.names):
        if emoji not in by_text or not plain(emoji) or ord(emoji[0]) < 0xA9:
            continue
        bitmap = bitmaps.get(by_text[emoji])
        if bitmap is None or "en" not in cldr.names[emoji]:
            continue
        code = _code(emoji)
        picture = Picture(f"noto-{code}", "noto", "", code, groups.get(code, "symbols"))
        cldr.fill(picture, emoji)
        yield picture, partial(_opened, io.BytesIO(bitmap.imageData))


def openmoji(data: Path, cldr: Annotations) -> Iterator[tuple[Picture, Draw]]:
    """OpenMoji's coloured drawings, with CLDR's names and OpenMoji's own tags."""
    folder = data / "pictures/openmoji"
    for row in json.loads((folder / "data/openmoji.json").read_text(encoding="utf-8")):
        path = folder / "color/svg" / f"{row['hexcode']}.svg"
        if row["skintone"] or row["group"] in ("component", "extras-unicode") or not path.exists():
            continue
        if not plain(row["emoji"]) or "skin tone" in row["annotation"]:
            continue
        code = _code(row["emoji"])
        own = row["group"] == "extras-openmoji"
        picture = Picture(
            f"openmoji-{row['hexcode']}",
            "openmoji",
            "",
            f"own-{code}" if own else code,
            row["group"],
        )
        if own:
            picture.names["en"] = [row["annotation"]]
        else:
            cldr.fill(picture, row["emoji"])
        tags = f"{row['tags']},{row['openmoji_tags']}".split(",")
        picture.keywords.setdefault("en", []).extend(t.strip() for t in tags if t.strip())
        if "en" in picture.names:
            yield picture, partial(drawn, path)


def tuxpaint(data: Path) -> Iterator[tuple[Picture, Draw]]:
    """Stamps: photos and drawings, each with a caption in many languages; folders as keywords."""
    root = data / "pkg/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    for text in sorted(root.rglob("*.txt")):
        path = next(
            (p for p in (text.with_suffix(s) for s in (".png", ".svg")) if p.exists()), None
        )
        lines = text.read_text(encoding="utf-8", errors="replace").splitlines()
        if path is None or not lines or not lines[0].strip():
            continue
        place = path.relative_to(root).parts[:-1]
        picture = Picture(f"tuxpaint-{'-'.join(place)}-{path.stem}", "tuxpaint", "", "", place[0])
        picture.names["en"] = [_sentence(lines[0])]
        for line in lines[1:]:
            language, _, caption = line.partition(".utf8=")
            language = {"nb": "no"}.get(language, language)
            if language in LANGUAGES and caption.strip():
                picture.names.setdefault(language, []).append(_sentence(caption))
        picture.keywords["en"] = [w.replace("-", " ") for w in place]
        yield picture, partial(drawn if path.suffix == ".svg" else _opened, path)


_SUBJECT = re.compile(r"<rdf:li[^>]*>([^<]+)</rdf:li>")
_TITLE = re.compile(r"<dc:title[^>]*>([^<]+)</dc:title>")


def openclipart(data: Path) -> Iterator[tuple[Picture, Draw]]:
    """Clip art with a title and keywords of its own, a random choice with a fixed seed."""
    root = data / "pkg/openclipart-svg/usr/share/openclipart/svg"
    found: dict[str, tuple[Path, list[str]]] = {}
    for path in sorted(root.rglob("*.svg")):
        if path.is_symlink() or path.stat().st_size > 250_000:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        title = _TITLE.search(text)
        name = re.sub(r"[\d_]+|\.svg$", " ", title.group(1)).strip() if title else ""
        subjects = [s.strip() for s in _SUBJECT.findall(text) if 2 < len(s.strip()) < 30]
        if len(content(name)) in (1, 2, 3) and subjects and len(name) < 40:
            found.setdefault(" ".join(name.lower().split()), (path, subjects))
    for name, (path, subjects), further in _choice(found, "openclipart"):
        group = path.relative_to(root).parts[0]
        keywords = [s.replace("_", " ") for s in subjects if s.lower() != name]
        for refit in (False, True):  # what could not be drawn comes once more, as a further one
            picture = Picture(f"openclipart-{group}-{path.stem}", "openclipart", "", "", group)
            picture.names["en"], picture.keywords["en"] = [name], keywords
            picture.further = further or refit
            yield picture, partial(drawn, path, refit=refit)


def icons(data: Path) -> Iterator[tuple[Picture, Draw]]:
    """Icons of one colour: Material Design (no outlines, no brands) and Lucide."""
    folder = data / "pictures/mdi-svg"
    found: dict[str, tuple[Path, list[str]]] = {}
    for row in json.loads((folder / "meta.json").read_text(encoding="utf-8")):
        plain_one = "outline" not in row["styles"] and not re.search(
            r"-(box|circle|off)", row["name"]
        )
        brand = any(t.startswith(("Brand", "Developer", "Alpha")) for t in row["tags"])
        if plain_one and not brand and not row["deprecated"] and (row["aliases"] or row["tags"]):
            tags = [part.strip().lower() for t in row["tags"] for part in re.split(r"[/+]", t)]
            more = [a.replace("-", " ") for a in row["aliases"]]
            found[row["name"]] = (folder / "svg" / f"{row['name']}.svg", more + tags)
    lucide = {
        name: (data / "pictures/lucide-static/icons" / f"{name}.svg", tags)
        for name, tags in json.loads(
            (data / "pictures/lucide-static/tags.json").read_text(encoding="utf-8")
        ).items()
        if tags
    }
    for source, table in (("mdi", found), ("lucide", lucide)):
        for name, (path, tags), further in _choice(table, source):
            picture = Picture(f"{source}-{name}", source, "", "", "icons", further=further)
            picture.names["en"] = [name.replace("-", " ")]
            picture.keywords["en"] = tags
            if path.exists():
                yield picture, partial(drawn, path)


def _choice(table: dict[str, Any], source: str) -> list[tuple[str, Any, bool]]:
    """(name, what the table has of it, whether it is a further one)."""
    names = sorted(table)
    random.Random(0).shuffle(names)
    most = MOST[source]
    chosen = [(name, False) for name in names[:most]]
    chosen += [(name, True) for name in names[most : most + FURTHER[source]]]
    return [(name, table[name], further) for name, further in sorted(chosen)]


def _code(emoji: str) -> str:
    return "-".join(f"{ord(c):x}" for c in emoji if c != "\ufe0f")


def _groups(data: Path) -> dict[str, str]:
    rows = json.loads((data / "pictures/openmoji/data/openmoji.json").read_text(encoding="utf-8"))
    return {_code(row["emoji"]): row["group"] for row in rows}


def _sentence(text: str) -> str:
    return text.strip().rstrip(".。 ")


_ROOT = re.compile(r"<svg\b[^>]*>")
_STATED = re.compile(r"\s(width|height)\s*=\s*([\"'])[^\"']*\2")


def drawn(path: Path, *, refit: bool = False) -> Image.Image | None:
    """An SVG file as RGBA, its longer side SIDE; None where it cannot be drawn, or is empty. refit:
    whatever size it states, which half of the old clip art does in a way that resvg does not take."""
    import resvg_py

    try:
        text = path.read_text(encoding="utf-8", errors="replace")
        if refit:
            text = _ROOT.sub(lambda tag: _STATED.sub("", tag.group()), text, count=1)
        raw = resvg_py.svg_to_bytes(svg_string=text, width=SIDE, skip_system_fonts=True)
        image = Image.open(io.BytesIO(bytes(raw))).convert("RGBA")
    except Exception:  # clip art of twenty years: some is broken
        return None
    box = image.getchannel("A").getbbox()
    return image if box and image.height <= 8 * image.width else None


def trimmed(image: Image.Image) -> Image.Image:
    """Without empty margins, at most SIDE a side."""
    box = image.getchannel("A").getbbox()
    image = image.crop(box) if box else image
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return image


_FIXED = re.compile(r"left|right|clock|letter|digit|number|flag|text|sign|word|music|map|abc", re.I)


def finish(picture: Picture) -> None:
    """Concept, held or not, and whether it may be mirrored, from its English names."""
    named = " ".join(picture.names["en"])
    if not picture.concept:
        picture.concept = " ".join(sorted(set(content(named)))) or named.lower()
    picture.held = is_held(named)
    picture.turns = picture.group not in ("flags", "symbols") and not _FIXED.search(named)


def build(data: Path) -> Path:
    """Draws all pictures; those that are there already are not drawn again."""
    out = data / "pictures/drawn"
    table = out / "pictures.jsonl"
    if table.exists():
        return table
    out.mkdir(parents=True, exist_ok=True)
    cldr = Annotations(data / "pkg/unicode-cldr-core/usr/share/unicode/cldr/common")
    parts = [noto(data, cldr), openmoji(data, cldr), tuxpaint(data), openclipart(data), icons(data)]
    lines, keys = [], set()
    for picture, draw in (one for part in parts for one in part):
        picture.file = re.sub(r"[^\w-]+", "_", picture.key) + ".png"
        finish(picture)
        if picture.file in keys or (picture.held and picture.further):
            continue
        if not (out / picture.file).exists():
            image = draw()
            if image is None or min((image := trimmed(image)).size) < 8:
                continue
            image.save(out / "part.png")
            (out / "part.png").rename(out / picture.file)
        keys.add(picture.file)
        lines.append(json.dumps(asdict(picture), ensure_ascii=False))
    table.with_suffix(".part").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table.with_suffix(".part").rename(table)
    return table


def _opened(source: Path | io.BytesIO) -> Image.Image:
    return Image.open(source).convert("RGBA")


def load(data: Path) -> list[Picture]:
    """All pictures of the table, in its order."""
    table = build(data)
    return [Picture(**json.loads(line)) for line in table.read_text(encoding="utf-8").splitlines()]


def closed_terms(pictures: Sequence[Picture]) -> dict[str, set[str]]:
    """Language -> names of held-out pictures: no term of training may be one of them."""
    closed: dict[str, set[str]] = {}
    for picture in pictures:
        if picture.held:
            for language, names in picture.names.items():
                closed.setdefault(language, set()).update(n.lower() for n in names)
    return closed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    pictures = load(parser.parse_args().data)
    for source in dict.fromkeys(p.source for p in pictures):
        own = [p for p in pictures if p.source == source]
        print(f"{source}: {len(own)} pictures, {sum(p.held for p in own)} held out")


if __name__ == "__main__":
    main()
