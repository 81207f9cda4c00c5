"""Search by words, alone and fused with MaxSim: against BM25 and fusion written out in plain Python."""

from __future__ import annotations

import math
import re
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_helpers import DIM, matrices

from lateint.index import (
    BadFilter,
    BadTokens,
    Index,
    IndexCorrupt,
    IndexWriteFailed,
    NoTextSearch,
    fuse,
    lexical,
)

TEXTS = [
    "the red kite over the field",
    "two gulls and a kite, and a boat",
    "The RAIN gauge counts the rain",
    "",
    None,
    "a café in the rain",
    "the boat, the boat, the red boat",
    "nothing of that kind in the harbour",
    "the rain-gauge manual: gauge, rain, reset",
]


def made(path: Path, texts: list[str | None] = TEXTS) -> Index:
    index = Index.create(path, DIM)
    half = len(texts) // 2
    for low, high in ((0, half), (half, len(texts))):
        index.add(
            [f"d{i}" for i in range(low, high)],
            matrices(0, len(texts))[low:high],
            metadata=[{"n": i, "parent": f"p{i // 3}"} for i in range(low, high)],
            texts=texts[low:high],
        )
    return index


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower().replace("é", "e"))


def bm25(query: str, texts: dict[str, str | None]) -> dict[str, float]:
    """Okapi BM25 as its definition reads, with SQLite's constants."""
    held = {name: words(text) for name, text in texts.items() if text and text.strip()}
    mean = sum(map(len, held.values())) / len(held)
    scores: dict[str, float] = {}
    having = {w: sum(w in text for text in held.values()) for w in set(words(query))}
    rare = [w for w, n in having.items() if n and 2 * n <= len(texts)]
    for word in rare or [w for w, n in having.items() if n]:
        idf = math.log((len(held) - having[word] + 0.5) / (having[word] + 0.5))
        for name, text in held.items():
            if times := text.count(word):
                part = times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(text) / mean))
                scores[name] = scores.get(name, 0.0) + max(idf, 1e-6) * part
    return scores


def test_words_alone(tmp_path: Path) -> None:
    texts = {f"d{i}": text for i, text in enumerate(TEXTS)}
    with made(tmp_path / "i") as index:
        for query in ("rain", "red boat", "Rain GAUGE reset", "cafe the", "the", "kite?"):
            wanted = bm25(query, texts)
            hits = index.search_hybrid(None, [query], 9, fusion="bm25")[0]
            assert {hit.id: hit.bm25 for hit in hits} == pytest.approx(wanted, rel=1e-5)
            assert [hit.score for hit in hits] == sorted((h.bm25 for h in hits), reverse=True)
            assert all(hit.maxsim is None for hit in hits)
        index.delete(["d2", "d6"])
        index.upsert(["d0", "n"], matrices(3, 2), texts=["a gull in the rain", "rain"])
        texts = {n: t for n, t in texts.items() if n not in ("d2", "d6")}
        texts |= {"d0": "a gull in the rain", "n": "rain"}
        for compact in (False, True):
            if compact:
                index.compact()
            for query in ("rain", "boat", "red", "gull"):
                hits = index.search_hybrid(None, [query], 9, fusion="bm25")[0]
                wanted = bm25(query, texts)
                assert {hit.id: hit.bm25 for hit in hits} == pytest.approx(wanted, rel=1e-5)
            index.verify()


@pytest.mark.parametrize("fusion", ["rrf", "weighted"])
def test_both_at_once(tmp_path: Path, fusion: str) -> None:
    query, said = matrices(7, 1), "red boat rain"
    with made(tmp_path / "i") as index:
        maxsim = {hit.id: hit.score for hit in index.search(query, 99)[0]}
        text = {hit.id: hit.bm25 for hit in index.search_hybrid(None, [said], fusion="bm25")[0]}
        hits = index.search_hybrid(query, [said], 99, fusion=fusion, weight=0.3)[0]
        assert {hit.id: hit.maxsim for hit in hits} == pytest.approx(maxsim)
        assert {hit.id: hit.bm25 for hit in hits if hit.bm25} == pytest.approx(text)
        low, high = min(maxsim.values()), max(maxsim.values())
        for hit in hits:
            if fusion == "weighted":
                wanted = 0.3 * (maxsim[hit.id] - low) / (high - low)
                wanted += 0.7 * text.get(hit.id, 0) / max(text.values())
            else:
                wanted = 1 / (60 + 1 + sorted(maxsim.values(), reverse=True).index(maxsim[hit.id]))
                if hit.id in text:
                    place = sorted(text.values(), reverse=True).index(text[hit.id])
                    wanted += 1 / (60 + 1 + place)
            assert hit.score == pytest.approx(wanted, rel=1e-5)
        assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
        assert hits[:3] == index.search_hybrid(query, [said], 3, fusion=fusion, weight=0.3)[0]


def test_candidates_of_either_list_get_both_scores(tmp_path: Path) -> None:
    query = matrices(7, 1)
    with made(tmp_path / "i") as index:
        maxsim = {hit.id: hit.score for hit in index.search(query, 99)[0]}
        hits = index.search_hybrid(query, ["harbour"], 99, depth=2)[0]
        best = sorted(maxsim, key=lambda name: -maxsim[name])[:2]
        assert {hit.id for hit in hits} == {*best, "d7"}
        assert {hit.id: hit.maxsim for hit in hits} == pytest.approx(
            {h.id: maxsim[h.id] for h in hits}
        )
        # The ends of the weighted sum are the two rankings themselves.
        order = [h.id for h in index.search_hybrid(query, ["rain"], fusion="weighted", weight=1)[0]]
        assert order == [hit.id for hit in index.search(query, 10)[0]]
        first = index.search_hybrid(query, ["harbour"], 1, fusion="weighted", weight=0)[0]
        assert first[0].id == "d7" and first[0].score == 1.0


def test_filters_and_groups(tmp_path: Path) -> None:
    query = matrices(7, 2)
    with made(tmp_path / "i") as index:
        for chosen in ({"where": "n > ?", "params": [5]}, {"ids": ["d6", "d7", "d8"]}):
            for fusion in ("rrf", "weighted", "bm25"):
                rows = index.search_hybrid(
                    query, ["boat rain", "harbour"], 9, fusion=fusion, **chosen
                )
                assert all(hit.metadata["n"] > 5 for row in rows for hit in row)
                assert {hit.id for hit in rows[0] if hit.bm25} == {"d6", "d8"}
                assert {hit.id for hit in rows[1] if hit.bm25} == {"d7"}
        plain = index.search_hybrid(query, ["boat rain"] * 2, 9)[1]
        grouped = index.search_hybrid(query, ["boat rain"] * 2, 9, group_by="parent", depth=1)[1]
        assert len(grouped) == 3 == len({hit.metadata["parent"] for hit in grouped})
        assert grouped[0].id == plain[0].id
        with pytest.raises(BadFilter, match="did you mean 'parent'"):
            index.search_hybrid(query, ["a", "b"], group_by="parant")


def test_where_stays_closed(tmp_path: Path) -> None:
    with made(tmp_path / "i") as index:
        for where in (
            "lexical match 'rain'",
            "n match 'rain'",
            "bm25(lexical) < 0",
            "highlight(lexical, 0, '', '') = ''",
            "n in (select rowid from lexical)",
            '"lexical" = 1',
        ):
            with pytest.raises(BadFilter):
                index.search_hybrid(matrices(1, 1), ["rain"], where=where)


OPERATORS = [
    '"', '""', '"rain', "rain*", "^rain", "rain AND NOT gauge", "rain OR", "NEAR(rain gauge, 2)", "(",
    "text : rain", "- text : rain", "{text} : rain", "rain + gauge", "'; DROP TABLE texts; --",
    "lexical", "rain\0gauge", "%", "?", "\ud800rain", "🌧", "", " \n", "rain " * 500, "x" * 200_000,
]  # fmt: skip


@pytest.mark.parametrize("query", OPERATORS)
def test_a_query_is_plain_words(tmp_path: Path, query: str) -> None:
    with made(tmp_path / "i") as index:
        hits = index.search_hybrid(None, [query], 9, fusion="bm25")[0]
        plain = " ".join(re.findall("[a-z]+", query.lower()))[:100_000]
        assert hits == index.search_hybrid(None, [plain], 9, fusion="bm25")[0]
        if not plain:
            assert not hits
        both = index.search_hybrid(matrices(7, 1), [query], 9)[0]
        if not plain:  # without words the order is MaxSim's
            assert [hit.id for hit in both] == [h.id for h in index.search(matrices(7, 1), 9)[0]]


@settings(max_examples=60, deadline=None, database=None)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_as_document_and_query(text: str, query: str) -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("CREATE TABLE texts (doc INTEGER PRIMARY KEY, text TEXT NOT NULL, crc INTEGER)")
    table = lexical.Lexical(db, Path("x"))
    rows = [(1, text), (2, "other words here"), (3, text + " " + query)]
    table.insert(rows, [])
    db.executemany("INSERT INTO texts VALUES (?, ?, 0)", rows)
    assert list(table.check(rows)) == []
    shared = [word for word in query.split() if word.isascii() and word.isalnum()]
    if shared:
        assert 3 in table.search(query, 3)[0]
    table.remove(rows[1:])
    assert list(table.check(rows[:1])) == []


def test_rare_words_count_when_there_are_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lexical, "QUERY_TERMS", 2)
    with made(tmp_path / "i") as index:
        hits = index.search_hybrid(None, ["the boat reset harbour"], 9, fusion="bm25")[0]
        assert {hit.id for hit in hits} == {"d7", "d8"}


def test_without_texts_nothing_is_made(tmp_path: Path) -> None:
    with made(tmp_path / "i", [None, "", " "] * 3) as index:
        tables = index._storage._db.execute("SELECT name FROM sqlite_master").fetchall()
        assert not [name for (name,) in tables if "lexical" in name]
        assert index.search_hybrid(None, ["rain"], fusion="bm25") in ([[]],)
        assert len(index.search_hybrid(matrices(1, 1), ["rain"])[0]) == 9


def test_readers_keep_their_snapshot(tmp_path: Path) -> None:
    with made(tmp_path / "i") as index, Index.open(tmp_path / "i") as reader:
        index.delete(["d7"])
        index.compact()
        assert [h.id for h in reader.search_hybrid(None, ["harbour"], fusion="bm25")[0]] == ["d7"]
        reader.verify()
        reader.refresh()
        assert reader.search_hybrid(None, ["harbour"], fusion="bm25") == [[]]
        reader.verify()


def test_what_failed_leaves_no_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with made(tmp_path / "i") as index:
        pages = index._storage._db.execute("PRAGMA page_count").fetchone()[0]
        index._storage._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(IndexWriteFailed, match="full"):
            index.add(
                [f"n{i}" for i in range(50)], matrices(1, 50), texts=["unseen word " * 900] * 50
            )
        assert index.search_hybrid(None, ["unseen"], fusion="bm25") == [[]]
        index.verify()


def test_emptied_and_filled_again(tmp_path: Path) -> None:
    made(tmp_path / "i").close()
    with Index.create(tmp_path / "i", DIM, overwrite=True) as index:
        assert index.search_hybrid(None, ["rain"], fusion="bm25") == [[]]
        index.verify()
        index.add(["a"], matrices(1, 1), texts=["rain"])
        assert [h.id for h in index.search_hybrid(None, ["rain"], fusion="bm25")[0]] == ["a"]
        index.verify()


def test_a_python_without_fts5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(lexical, "available", lambda: False)
        with made(tmp_path / "i") as index:  # texts are kept
            assert index.texts(["d0"]) == [TEXTS[0]]
            with pytest.raises(NoTextSearch, match="FTS5"):
                index.search_hybrid(matrices(1, 1), ["rain"])
            assert len(index.search(matrices(1, 1))[0]) == 9
            index.delete(["d0"])
            index.verify()
    with Index.open(tmp_path / "i") as index, pytest.raises(NoTextSearch, match=r"compact\(\)"):
        index.search_hybrid(matrices(1, 1), ["rain"])
    with Index.open(tmp_path / "i", write=True) as index:
        index.compact()
        assert len(index.search_hybrid(None, ["rain"], fusion="bm25")[0]) == 3
        index.verify()
    monkeypatch.setattr(lexical, "available", lambda: False)
    with Index.open(tmp_path / "i", write=True) as index:  # no half-written words
        with pytest.raises(NoTextSearch, match="FTS5"):
            index.add(["n"], matrices(1, 1), texts=["rain"])
        with pytest.raises(NoTextSearch, match="FTS5"):
            index.delete(["d2"])
        assert "d2" in index and "n" not in index


def test_words_that_do_not_fit_the_texts(tmp_path: Path) -> None:
    """Damage that SQLite's own check does not see is seen by verify()."""
    for change in (
        "INSERT INTO lexical(rowid, text) VALUES (4, 'stray')",
        "INSERT INTO lexical(lexical, rowid, text) VALUES ('delete', 1, 'the red kite over the field')",
        "UPDATE lexical_docsize SET sz = x'07' WHERE id = 1",
        "UPDATE lexical_data SET block = x'090909' WHERE id = 1",
        "UPDATE lexical_data SET block = zeroblob(length(block)) WHERE id > 10",
        "DELETE FROM lexical_data WHERE id > 10",
    ):
        path = tmp_path / str(abs(hash(change)))
        made(path).close()
        db = sqlite3.connect(path / "index.sqlite")
        db.execute(change)
        db.commit()
        db.close()
        with Index.open(path) as index, pytest.raises(IndexCorrupt, match="lexical"):
            index.verify()


def test_wrong_calls(tmp_path: Path) -> None:
    query: Any = matrices(1, 1)
    with made(tmp_path / "i") as index:
        for said, options in (
            ("rain", {}),
            ([b"rain"], {}),
            (["rain"], {"fusion": "sum"}),
            (["rain"], {"weight": 1.5}),
            (["rain"], {"weight": float("nan")}),
            (["rain"], {"depth": 0}),
            (["rain"], {"k": 0}),
            (["rain"], {"params": [1]}),
        ):
            with pytest.raises(ValueError, match=r"wanted|params"):
                index.search_hybrid(query, said, **options)
        with pytest.raises(BadTokens, match="1 queries and 2 texts"):
            index.search_hybrid(query, ["a", "b"])


def test_fusion_of_nothing() -> None:
    none = np.zeros(0)
    assert len(fuse.weighted(none, none, 0.5)) == len(fuse.rrf(none, none)) == 0
    np.testing.assert_array_equal(fuse.weighted(np.ones(2), np.zeros(2), 0.5), [0, 0])
    ranked = fuse.ranks(np.asarray([1.0, 3, 3, 0]), np.asarray([True, True, True, False]))
    np.testing.assert_array_equal(ranked, [3, 1, 2, np.inf])
