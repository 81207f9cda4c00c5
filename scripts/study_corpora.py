"""Two further kinds of test for the study, on data that no model of it was trained on.

    pages          outline titles -> pages of manuals: the text layer of the development PDFs that
                   bench_pages.py searches, whole pages, up to eight times as long as in training
    en-de ...      short descriptions of Debian packages in English -> long ones in another
                   language, by apt's translations; en-en: the same packages, all in English

Training and test share no source package. Documents are cut to so many words that the models read
about as much of them as BM25 does.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import token_data
from study_data import (
    PIECE,
    SEED,
    Pair,
    Sizes,
    as_json,
    corpus,
    cut,
    part_of,
    source_packages,
    write_json,
)

from lateint.evaluation import Benchmark

if TYPE_CHECKING:
    from layout_data import Corpus

Name = tuple[str, str]  # a package and the checksum of the English text that was translated
Said = tuple[str, str]  # short, long
LANGUAGES = ("de", "fr", "it")
PAGE_WORDS = 320  # about 450 tokens of MiniLM's, which reads 512
TITLE_WORDS = 2  # of a title, at least: "Loops" is no question


def families(data: Path, sizes: Sizes, kept: Path) -> dict[str, Benchmark]:
    """Both kinds, by name; kept in a file as `study_data.material` is."""
    if not kept.exists():
        found = {"pages": pages(data, sizes), **translated(data, sizes)}
        write_json(kept, {name: as_json(one) for name, one in found.items()})
    value = json.loads(kept.read_text(encoding="utf-8"))
    return {name: Benchmark(name, **parts) for name, parts in value.items()}


def pages(data: Path, sizes: Sizes) -> Benchmark:
    """Some of the pages that titles name, and the titles whose pages are all among them."""
    from development import english, english_paths

    if missing := [path for path in english_paths(data) if not path.exists()]:
        raise SystemExit(f"{missing[0]}: no such file; scripts/get_data.sh {data} dev")
    return some_pages(english(data), sizes.pages)


def some_pages(source: Corpus, count: int) -> Benchmark:
    """`count` of the pages that titles name, drawn by SEED, as texts."""
    asked = [(title, pages) for title, pages in source.queries if len(title.split()) >= TITLE_WORDS]
    titled = sorted({page for _, pages in asked for page in pages})
    chosen = sorted(random.Random(SEED).sample(titled, min(count, len(titled))))
    called = {page: f"{source.document[page]}/{source.names[page]}" for page in chosen}
    texts = {}
    for page, name in called.items():
        ids = source.ids[source.offsets[page] : source.offsets[page + 1]]
        texts[name] = " ".join(source.vocabulary[i] for i in ids[:PAGE_WORDS])
    queries, qrels = {}, {}
    for number, (title, found) in enumerate(asked):
        if all(page in called for page in found):
            queries[f"q{number}"] = title
            qrels[f"q{number}"] = {called[page]: 1 for page in found}
    return Benchmark("pages", texts, queries, qrels)


def translated(data: Path, sizes: Sizes) -> dict[str, Benchmark]:
    """The same packages in every language; only those that all of LANGUAGES translate."""
    lists = data / "apt-languages" / "lists"
    if not any(lists.glob("*Translation-*")):
        token_data.fetch_lists(lists.parent, ("en", *LANGUAGES))
    by_language = {one: dict(translations(lists, one)) for one in ("en", *LANGUAGES)}
    sources = source_packages(data)
    names = [
        name for name in shared(by_language) if part_of(sources.get(name[0], name[0])) == "test"
    ]
    random.Random(SEED).shuffle(names)
    if len(names) < sizes.translated:
        raise SystemExit(f"{lists}: {len(names)} packages in all languages, too few")
    english = by_language["en"]
    found = {}
    for language, texts in by_language.items():
        pairs = [
            Pair(name[0], english[name][0], cut(texts[name][1], PIECE))
            for name in names[: sizes.translated]
        ]
        found[f"en-{language}"] = corpus(f"en-{language}", pairs, sizes.translated)
    return found


def translations(lists: Path, language: str) -> Iterator[tuple[Name, Said]]:
    """What apt's translations to a language say of packages."""
    for file in sorted(lists.glob(f"*Translation-{language}")):
        for block in file.read_text(encoding="utf-8").split("\n\n"):
            entry = token_data.parse(block, language)
            digest = re.search(r"^Description-md5: (\w+)", block, re.M)
            if entry and digest:
                yield (entry[0], digest[1]), entry[1:]


def shared(by_language: Mapping[str, Mapping[Name, Said]]) -> list[Name]:
    """Texts that stand in each language, in order; no package and no English short description
    twice, and none whose "translation" is the English text."""
    english = by_language["en"]
    others = [table for language, table in by_language.items() if language != "en"]
    seen: set[str] = set()
    kept = []
    for name in sorted(set(english).intersection(*others)):
        short, long = english[name]
        if seen.isdisjoint((name[0], short)) and all(long != table[name][1] for table in others):
            seen |= {name[0], short}
            kept.append(name)
    return kept
