"""Texts that say the same in two languages, from public packages: what the lexicon learns from.

    scripts/get_data.sh DATA lexicon

fetches them: Debian's package descriptions and their translations (aligned by the checksum of the
English text), LibreOffice's help (by the ids of its paragraphs), manual pages (by their macros),
LinuxCNC's outlines (entry by entry), Tux Paint's captions and the names of CLDR. Packages whose
name falls into `held_out` are left for measuring.
"""

from __future__ import annotations

import gzip
import html
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree import ElementTree
from zlib import crc32

from modalities import pdf, words

FULL = ("de", "fr", "es", "it")  # of which help and manual pages are read
LANGUAGES = (
    *FULL, "da", "nl", "pt", "pl", "cs", "sk", "ru", "uk", "sv", "fi", "hu", "ca", "nb", "ro",
    "bg", "el", "tr", "hr", "sl", "sr", "lt", "lv", "et", "sq",
)  # fmt: skip
MOST = 60  # words of a text: of longer ones nothing is learnt word by word


@dataclass(frozen=True)
class Pair:
    """Folded words of one text in another language and in English; kind: where it is from."""

    kind: str
    other: tuple[str, ...]
    english: tuple[str, ...]


@dataclass(frozen=True)
class Description:
    """Of one package, in one language: the short line, and the long text's paragraphs."""

    package: str
    short: str
    long: tuple[str, ...]


def held_out(package: str) -> bool:
    """Whether a package is left for measuring: one in twenty, by a checksum of its name."""
    return crc32(package.encode()) % 20 == 0


def folded(text: str) -> tuple[str, ...]:
    return tuple(word for word, _, _ in words.split(text))


@cache
def descriptions(data: Path, language: str) -> dict[str, Description]:
    """Checksum of the English description -> the description in a language."""
    found: dict[str, Description] = {}
    code = {"pt": "pt%5fBR"}.get(language, language)
    lists = (data / "translations").glob(f"*/lists/*_main_*_Translation-{code}")
    for path in sorted(lists):
        for record in path.read_text(encoding="utf-8").split("\n\n"):
            head, _, text = record.partition(f"\nDescription-{code.replace('%5f', '_')}: ")
            package = re.search(r"^Package: (.*)$", head, re.M)
            checksum = re.search(r"^Description-md5: (.*)$", head, re.M)
            if not text or package is None or checksum is None:
                continue
            short, _, rest = text.partition("\n")
            paragraphs = re.split(r"\n \.\s*(?=\n|$)", "\n" + rest)
            long = tuple(" ".join(p.split()) for p in paragraphs if p.strip())
            found[checksum[1]] = Description(package[1], " ".join(short.split()), long)
    return found


def _descriptions(data: Path, language: str) -> Iterator[tuple[str, str, str]]:
    english = descriptions(data, "en")
    for checksum, other in descriptions(data, language).items():
        own = english.get(checksum)
        if own is None or held_out(own.package) or own.short == other.short:
            continue
        yield "short", other.short, own.short
        if len(own.long) == len(other.long):
            yield from (("long", o, e) for o, e in zip(other.long, own.long, strict=True) if o != e)


_BLOCK = re.compile(r'<(p|h[1-6])\s+id="([^"]+)"[^>]*>(.*?)</\1>', re.S)


def _blocks(path: Path) -> dict[str, str]:
    """Paragraphs of a page of LibreOffice's help by their id, without tags."""
    text = path.read_text(encoding="utf-8", errors="replace")
    return {
        m[2]: " ".join(html.unescape(re.sub(r"<[^>]*>", " ", m[3])).split())
        for m in _BLOCK.finditer(text)
    }


def _help(data: Path, language: str) -> Iterator[tuple[str, str, str]]:
    root = data / "pkg"
    there = "usr/share/libreoffice/help"
    base = root / "libreoffice-help-en-us" / there / "en-US"
    seen: set[tuple[str, str]] = set()
    for path in sorted(base.rglob("*.html")):
        name = path.relative_to(base)
        twin = root / f"libreoffice-help-{language}" / there / language / name
        if not twin.exists():
            continue
        other = _blocks(twin)
        for key, own in _blocks(path).items():
            pair = other.get(key, own), own
            if pair[0] != own and pair not in seen:  # snippets are on many pages
                seen.add(pair)
                yield "help", *pair


def _roff(path: Path) -> list[tuple[str, str]]:
    """(macro, text) of a manual page, without fonts and other escapes."""
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        text = file.read(1_000_000)
    text = re.sub(
        r'^[.\']\\".*\n|^\.\\}.*\n|^\.(?:EX|EE|nf|fi|ad|hy|ds|if|ie|el|de|RS|RE).*\n',
        "",
        text,
        flags=re.M,
    )
    text = re.sub(r"\\f(?:\[[^]]*\]|\(..|.)|\\[&/,|^%c]|\\s[-+]?\d", "", text)
    text = re.sub(r"\\\((?:aq|cq|oq|lq|rq|dq|en|em|bu)|\\\*\(..|\\\[[^]]*\]|\\[-e~ ]", " ", text)
    blocks: list[tuple[str, str]] = []
    for line in text.split("\n"):
        macro = re.match(r"\.(SH|SS|TP|PP|P|LP|IP|HP|TH|TQ)\b\s*(.*)", line)
        if macro:
            blocks.append((macro[1], macro[2]))
        elif blocks:
            before = blocks[-1]
            blocks[-1] = before[0], before[1] + " " + re.sub(r"^\.[A-Z]{1,2} ", "", line)
    return [(kind, " ".join(body.replace('"', " ").split())) for kind, body in blocks]


def _manuals(data: Path, language: str) -> Iterator[tuple[str, str, str]]:
    root = data / "pkg"
    for package in ("manpages", "manpages-dev"):
        for path in sorted((root / package / "usr/share/man").rglob("*.gz")):
            twin = (
                root
                / f"manpages-{language}"
                / "usr/share/man"
                / language
                / path.parent.name
                / path.name
            )
            if not twin.is_file() or path.is_symlink():
                continue
            own = _roff(path)
            other = _roff(twin)[: len(own)]  # then come the translators' names
            if [kind for kind, _ in own] == [kind for kind, _ in other]:
                for (kind, e), (_, o) in zip(own, other, strict=True):
                    if kind != "TH" and e != o:
                        yield "manual", o, e


def _outlines(data: Path, language: str) -> Iterator[tuple[str, str, str]]:
    """Bookmarks of LinuxCNC's manuals that stand at the same place in both languages."""
    base = "usr/share/doc/linuxcnc"
    for path in sorted((data / "pkg" / "linuxcnc-doc-en" / base).glob("*.pdf")):
        twin = (data / "pkg" / f"linuxcnc-doc-{language}" / base) / (f"{path.stem}_{language}.pdf")
        if twin.exists():
            own, other = pdf.outline(path), pdf.outline(twin)
            if len(own) == len(other):
                for e, o in zip(own, other, strict=True):
                    if e.title != o.title:
                        yield "outline", o.title, e.title


def _captions(data: Path, language: str) -> Iterator[tuple[str, str, str]]:
    root = data / "pkg" / "tuxpaint-stamps-default" / "usr/share/tuxpaint/stamps"
    for path in sorted(root.rglob("*.txt")):
        first, *rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
        for line in rest:
            code, _, text = line.partition("=")
            if code in (f"{language}.utf8", {"pt": "pt_BR.utf8"}.get(language)) and text != first:
                yield "caption", text, first


_NAMED = (
    "language", "territory", "month", "day", "quarter", "displayName", "unitPattern", "variant",
    "script", "currency", "exemplarCity",
)  # fmt: skip


def names(data: Path, language: str) -> dict[str, str]:
    """CLDR's names of emoji and of what computers show (languages, countries, months, units) and
    keywords of emoji, by what they name."""
    root = data / "pkg" / "unicode-cldr-core" / "usr/share/unicode/cldr/common"
    language = {"nb": "no"}.get(language, language)
    found: dict[str, str] = {}
    for folder in ("annotations", "annotationsDerived"):
        path = root / folder / f"{language}.xml"
        if path.exists():
            for node in ElementTree.parse(path).iter("annotation"):
                kind = "name" if node.get("type") == "tts" else "keywords"
                found[f"{kind} {node.get('cp')}"] = (node.text or "").replace("|", " ")
    path = root / "main" / f"{language}.xml"
    if path.exists():
        for parents, node in _walk(ElementTree.parse(path).getroot(), ()):
            if node.tag in _NAMED and node.get("alt") is None and node.text:
                found[f"{parents} {node.tag} {node.get('type')} {node.get('count')}"] = re.sub(
                    r"\{\d\}", " ", node.text
                )
    return found


def _walk(
    node: ElementTree.Element, parents: tuple[str, ...]
) -> Iterator[tuple[str, ElementTree.Element]]:
    for child in node:
        place = f"{child.tag}:{child.get('type') or ''}"
        yield "/".join(parents), child
        yield from _walk(child, (*parents, place))


def _names(data: Path, language: str) -> Iterator[tuple[str, str, str]]:
    english = names(data, "en")
    for key, text in names(data, language).items():
        if key in english:
            yield ("keywords" if key.startswith("keywords") else "name"), text, english[key]


def pairs(data: Path, language: str) -> list[Pair]:
    """All texts of a language that are neither empty nor long nor of very different length."""
    sources = [_descriptions, _captions, _names]
    if language in FULL:
        sources += [_help, _manuals, _outlines]
    found: dict[Pair, None] = {}
    for source in sources:
        for kind, other, english in source(data, language):
            pair = Pair(kind, folded(other), folded(english))
            sizes = len(pair.other), len(pair.english)
            if min(sizes) > 0 and max(sizes) <= MOST and max(sizes) <= 2 * min(sizes) + 3:
                found[pair] = None
    return list(found)


def kept(data: Path, out: Path, language: str) -> list[Pair]:
    """`pairs`, read from out/pairs-<language>.jsonl once they are there."""
    path = out / f"pairs-{language}.jsonl"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        lines = [
            json.dumps([p.kind, " ".join(p.other), " ".join(p.english)])
            for p in pairs(data, language)
        ]
        part = path.with_suffix(".tmp")
        part.write_text("\n".join(lines))
        part.replace(path)
    rows = (json.loads(line) for line in path.read_text().split("\n") if line)
    return [Pair(kind, tuple(o.split(" ")), tuple(e.split(" "))) for kind, o, e in rows]


def counts(texts: Iterator[tuple[str, ...]]) -> tuple[Counter[str], int]:
    """In how many texts a word is, and the number of texts."""
    found: Counter[str] = Counter()
    number = 0
    for text in texts:
        found.update(set(text))
        number += 1
    return found, number
