"""Pairs of a question and its document for the study, out of what a Debian machine has.

    packages       short description -> long description, from apt's lists (see token_data.py)
    manual pages   the NAME line of a manual page -> its DESCRIPTION, from /usr/share/man
    long           a package's description hidden among others: the same question, a longer document

Training and test share no source package, so no text that two of its packages have in common.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from token_data import descriptions

from lateint.evaluation import Benchmark

SECTIONS = ("man1", "man5", "man7", "man8")
MAX_PAGE = 2_000_000  # bytes of a manual page, unpacked
FAMILY = 20  # pages of one program's (git-add, git-am ...): one large program must not be the test
WORDS = 80  # of a document: more than a model here reads of one description
PIECE = 40  # words of each description in the long documents: about 58 tokens
SEED = 11


class Pair(NamedTuple):
    name: str
    query: str
    document: str


@dataclass(frozen=True)
class Sizes:
    """train: pairs. queries, documents: of a test corpus. manual: pages. dev: queries and documents
    of the development set.
    long_documents: of each long corpus; pieces: descriptions in a document of each. pages,
    translated: documents of study_corpora.py's."""

    train: int = 3840
    queries: int = 400
    documents: int = 2000
    dev: tuple[int, int] = (100, 400)
    manual: int = 1000
    long_documents: int = 200
    pieces: tuple[int, ...] = (1, 2, 4, 8)
    pages: int = 300
    translated: int = 150


QUICK = Sizes(96, 20, 120, (10, 40), 60, 30, (1, 2), 60, 30)


@dataclass(frozen=True)
class Material:
    train: list[Pair]
    dev: Benchmark
    tests: dict[str, Benchmark]
    """By name: "packages", "manual pages", "long 1", "long 2", ..."""


def material(data: Path, man: Path, sizes: Sizes, kept: Path) -> Material:
    """All of it, the same every time for the same lists and pages; what was drawn is kept in the
    file `kept`, so that a run that is resumed goes on with the same texts."""
    if not kept.exists():
        found = draw(data, man, sizes)
        corpora = {one.name: as_json(one) for one in (found.dev, *found.tests.values())}
        write_json(kept, {"train": found.train, "corpora": corpora})
    value = json.loads(kept.read_text(encoding="utf-8"))
    corpora = {name: Benchmark(name, **parts) for name, parts in value["corpora"].items()}
    dev = corpora.pop("dev")
    return Material([Pair(*row) for row in value["train"]], dev, corpora)


def as_json(one: Benchmark) -> dict[str, Any]:
    """A corpus of texts; `Benchmark(name, **value)` is the corpus again."""
    return {
        "documents": dict(one.documents),
        "queries": dict(one.queries),
        "qrels": one.qrels,
    }


def write_json(path: Path, value: Any) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    part.replace(path)


def draw(data: Path, man: Path, sizes: Sizes) -> Material:
    """Reads lists and pages."""
    parts = split(data)
    wanted = sizes.documents + sizes.long_documents * max(sizes.pieces)
    if len(parts["test"]) < wanted or len(parts["train"]) < sizes.train:
        raise SystemExit(
            f"too few packages: {', '.join(f'{k} {len(v)}' for k, v in parts.items())}"
        )
    test = parts["test"]
    tests = {"packages": corpus("packages", test[: sizes.documents], sizes.queries)}
    pages = list(manual_pages(man))
    random.Random(SEED).shuffle(pages)
    if len(pages) < sizes.manual:
        raise SystemExit(
            f"{man}: {len(pages)} manual pages that can be used; wanted {sizes.manual}"
        )
    tests["manual pages"] = corpus("manual pages", pages[: sizes.manual], sizes.queries)
    rest = test[sizes.documents :]
    for pieces in sizes.pieces:
        tests[f"long {pieces}"] = long_corpus(rest, pieces, sizes)
    queries, documents = sizes.dev
    dev = corpus("dev", parts["dev"][:documents], queries)
    return Material(parts["train"][: sizes.train], dev, tests)


def split(data: Path) -> dict[str, list[Pair]]:
    """All descriptions by part, in one order."""
    sources = source_packages(data)
    parts: dict[str, list[Pair]] = {"train": [], "dev": [], "test": []}
    for name, short, long in descriptions(data):
        parts[part_of(sources.get(name, name))].append(Pair(name, short, cut(long, WORDS)))
    return parts


def more_pairs(data: Path, count: int, kept: Path) -> list[Pair]:
    """Training pairs, the first of which are those of `material`; kept in a file as that is."""
    if not kept.exists():
        write_json(kept, split(data)["train"][:count])
    pairs = [Pair(*row) for row in json.loads(kept.read_text(encoding="utf-8"))]
    if len(pairs) < count:
        raise SystemExit(f"{kept}: {len(pairs)} training pairs; wanted {count}")
    return pairs[:count]


def part_of(source: str) -> str:
    """To which part all packages of a source package belong: "train", "dev" or "test"."""
    share = int(hashlib.sha256(source.encode()).hexdigest()[:8], 16) % 10
    return "test" if share < 3 else "dev" if share == 3 else "train"


def corpus(name: str, pairs: Sequence[Pair], queries: int) -> Benchmark:
    """The documents of all pairs; the questions of the first ones."""
    asked = pairs[:queries]
    return Benchmark(
        name,
        {pair.name: pair.document for pair in pairs},
        {f"q {pair.name}": pair.query for pair in asked},
        {f"q {pair.name}": {pair.name: 1} for pair in asked},
    )


def long_corpus(pairs: Sequence[Pair], pieces: int, sizes: Sizes) -> Benchmark:
    """Documents of so many descriptions each; the one asked for stands at a random place. Questions
    and what answers them are the same for every number of pieces."""
    generator = random.Random(SEED + pieces)
    targets = pairs[: sizes.long_documents]
    others = iter(pairs[sizes.long_documents :])
    joined = []
    for pair in targets:
        texts = [cut(next(others).document, PIECE) for _ in range(pieces - 1)]
        texts.insert(generator.randrange(pieces), cut(pair.document, PIECE))
        joined.append(pair._replace(document=" ".join(texts)))
    return corpus(f"long {pieces}", joined, sizes.queries)


def source_packages(data: Path) -> dict[str, str]:
    """Binary package -> source package, where they differ, from apt's lists."""
    found: dict[str, str] = {}
    for file in sorted((data / "apt" / "lists").glob("*_Packages")):
        package = ""
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("Package: "):
                    package = line[9:].strip()
                elif line.startswith("Source: "):
                    found[package] = line[8:].split()[0]
    return found


def manual_pages(folder: Path) -> Iterator[Pair]:
    """Pages with a NAME line and a DESCRIPTION, in the order of their names; none twice, and FAMILY
    at most whose names begin alike."""
    queries, documents = set(), set()
    families: dict[str, int] = {}
    for section in SECTIONS:
        for path in sorted((folder / section).glob("*.gz")):
            family = re.split(r"[-_.]", path.name)[0]
            if path.is_symlink() or families.get(family, 0) >= FAMILY:
                continue
            try:
                with gzip.open(path, "rb") as file:
                    text = file.read(MAX_PAGE + 1).decode("utf-8", "replace")
            except (OSError, EOFError):
                continue
            pair = page_pair(path.name.removesuffix(".gz"), text)
            if pair and pair.query.lower() not in queries and pair.document not in documents:
                queries.add(pair.query.lower())
                documents.add(pair.document)
                families[family] = families.get(family, 0) + 1
                yield pair


def page_pair(name: str, text: str) -> Pair | None:
    """What a manual page is said to do -> its description; None where it says too little."""
    sections = plain_sections(text)
    said = re.split(r"\s+[-–—]+\s+", sections.get("NAME", ""), maxsplit=1)
    document = cut(sections.get("DESCRIPTION", ""), WORDS)
    if len(said) < 2 or not 3 <= len(said[1].split()) <= 25 or len(document.split()) < 25:
        return None
    return Pair(name, said[1].strip().rstrip("."), document)


def plain_sections(text: str) -> dict[str, str]:
    """roff (man and mdoc macros) -> section -> plain words; layout is lost, what is unknown too."""
    sections: dict[str, list[str]] = {}
    section, inside = "", False
    for line in text.splitlines():
        if inside:
            inside = line.strip() not in ("..", ".end")
        elif line.startswith((".de", ".ig")):
            inside = True
        elif match := re.match(r"[.']\s*(\w+)\s*(.*)", line):
            macro, rest = match[1], match[2]
            if macro in ("SH", "Sh"):
                section = _unescaped(rest).strip('" ').upper()
            elif macro == "Nd":
                sections.setdefault(section, []).append("- " + _unescaped(rest))
            elif macro in _WORDS:
                words = [part.strip('"') for part in re.findall(r'"[^"]*"|\S+', rest)]
                joint = "" if macro in _ALTERNATING else " "
                sections.setdefault(section, []).append(_unescaped(joint.join(words)))
        elif not line.startswith((".", "'")):
            sections.setdefault(section, []).append(_unescaped(line))
    return {name: " ".join(" ".join(lines).split()) for name, lines in sections.items()}


_ALTERNATING = {"BR", "RB", "IR", "RI", "BI", "IB"}
_WORDS = _ALTERNATING | set("B I SM SB Nm Fl Ar Op Pa Cm Em Sy Ic Xr Ev Li Ql Dq Sq No".split())
_SIGNS = {"aq": "'", "cq": "'", "oq": "'", "dq": '"', "lq": '"', "rq": '"', "em": "-", "en": "-"}


def _unescaped(text: str) -> str:
    text = re.sub(r'\\".*', "", text)
    text = re.sub(r"\\f(\[\w*\]|\(\w\w|\w)", "", text)
    text = re.sub(r"\\[\[(](aq|cq|oq|dq|lq|rq|em|en)\]?", lambda m: _SIGNS[m[1]], text)
    text = re.sub(r'\\\*\((L"|R")', '"', text)
    text = re.sub(r"\\[*n](\[\w*\]|\(..|.)", "", text)
    text = re.sub(r"\\s[-+]?\d", "", text)
    text = re.sub(r"\\[hvw]'[^']*'", "", text)
    text = re.sub(r"\\[(]..|\\\[\w*\]", " ", text)
    text = text.replace("\\-", "-").replace("\\e", "\\").replace("\\ ", " ")
    return re.sub(r"\\[&|/,^%c:~)]?", "", text)


def cut(text: str, words: int) -> str:
    """The first so many words."""
    return " ".join(text.split()[:words])
