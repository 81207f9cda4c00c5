"""`where`: finds what SQL says, and lets nothing out or in."""

from __future__ import annotations

from pathlib import Path

import pytest
from index_helpers import DIM, matrices

from lateint.index import BadFilter, Index, filters

META = [
    {
        "year": 2020,
        "lang": "en",
        "tags": ["a", "b"],
        "author": {"name": "Ann"},
        "two words": 1,
        "from": "x",
    },
    {"year": 2024, "lang": "de", "score": 0.5, "open": True, "naïve": "é", "it's": 1},
    {"year": 2025, "lang": None, "text": "o'clock", "open": False},
    {},
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    made = Index.create(tmp_path_factory.mktemp("filters") / "i", DIM)
    made.add(["0", "1", "2", "3"], matrices(0, 4), metadata=META, texts=["secret"] * 4)
    made.add(["4"], matrices(1, 1), metadata=[{"Case": 1, "case": 2, 'quo"te': 1}])
    made.delete(["4"])
    return made


def found(index: Index, where: str, *params: object) -> set[str]:
    return {hit.id for hit in index.search(matrices(5, 1), k=10, where=where, params=params)[0]}


@pytest.mark.parametrize(
    ("where", "params", "ids"),
    [
        ("year >= ?", [2024], "12"),
        ("YEAR >= 2024 AND lang = 'de'", [], "1"),
        ("lang IS NULL", [], "23"),
        ("year IN (2020, ?) OR score < 1.0", [2025], "012"),
        ("year BETWEEN 2021 AND 2.024e3", [], "1"),
        ("not (year = 2024)", [], "02"),
        ("lower(lang) like 'E%'", [], "0"),
        ('"two words" = 1 and "from" = \'x\'', [], "0"),
        ("naïve = ?", ["é"], "1"),
        ('"it\'s" = 1', [], "1"),
        ("text = 'o''clock'", [], "2"),
        ("open", [], "1"),
        ("open is not null and not open", [], "2"),
        ("open = ?", [True], "1"),
        ("author ->> 'name' = 'Ann'", [], "0"),
        ("json_extract(author, '$.name') = ?", ["Ann"], "0"),
        ("instr(tags, '\"b\"') > 0", [], "0"),
        ("case when year > 2020 then 1 else 0 end", [], "12"),
        ("cast(year as text) || '!' = '2020!'", [], "0"),
        ("1", [], "0123"),
        ("?", [None], ""),
    ],
)
def test_finds(index: Index, where: str, params: list, ids: str) -> None:
    assert found(index, where, *params) == set(ids)


@pytest.mark.parametrize(
    "where",
    [
        "1) UNION SELECT doc FROM documents WHERE (1",
        "year > (SELECT 1)",
        "EXISTS (SELECT 1 FROM texts)",
        "year IN (VALUES (1))",
        "1; DROP TABLE documents",
        "1); DELETE FROM documents; --",
        "1) LIMIT (5",
        "1 -- comment",
        "1 /* comment */",
        "text = load_extension('x')",
        "randomblob(1000000000)",
        "zeroblob(9) is null",
        "printf('%999999999d', 1) = 'a'",
        "replace(lang, 'e', 'eeee') = 1",
        "hex(lang) = 1",
        "count(*) > 0",
        "group_concat(lang) = 'x'",
        "row_number() over () = 1",
        "lang = :name",
        "lang = @name",
        "lang = $name",
        "[year] = 1",
        "`year` = 1",
        "documents.metadata = 1",
        "metadata is not null",
        "doc = 1",
        '"""doc" = 1',
        "rowid = 1",
        "crc > 0",
        "(SELECT text FROM texts) = 'secret'",
        "year MATCH 'x'",
        "year REGEXP 'x'",
        "RAISE(IGNORE)",
        "pragma_table_info('documents') = 1",
        "sqlite_version() = ''",
        "year = 'unclosed",
        "year = (1",
        "",
        "   ",
        "year\0",
        "year = ",
        "min(year) = year",
        "author ->> '$[' = 1",
        '"case" = 1',
        '"quo""te" = 1',
        "x" * 20_000,
    ],
)
def test_refuses(index: Index, where: str) -> None:
    with pytest.raises(BadFilter):
        found(index, where)
    assert len(index) == 4  # and still answers
    assert found(index, "year = 2020") == {"0"}


def test_errors_help(index: Index) -> None:
    with pytest.raises(BadFilter, match="did you mean 'year'"):
        found(index, "yaer > 1")
    with pytest.raises(BadFilter, match="did you mean 'lang'"):
        found(index, '"langg" = 1')  # SQLite would take it for a string
    with pytest.raises(BadFilter, match=r"known keys: .*author"):
        index.search(matrices(5, 1), group_by="zzz")
    with pytest.raises(ValueError, match="without a where"):
        index.search(matrices(5, 1), params=[1])


@pytest.mark.parametrize(
    "params", [[], [1, 2], "2", [b"2"], [[2]], [2**70], ["\ud800"], ["x" * 2000]]
)
def test_bad_parameters(index: Index, params: object) -> None:
    with pytest.raises(BadFilter):
        index.search(matrices(5, 1), where="year = ?", params=params)  # type: ignore[arg-type]


def test_parameters_are_values_only(index: Index) -> None:
    assert found(index, "lang = ?", "en' OR '1'='1") == set()


def test_step_limit(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "STEPS", 0)
    monkeypatch.setattr(filters, "STEPS_PER_DOCUMENT", 1)
    monkeypatch.setattr(filters, "TICK", 10)
    with pytest.raises(BadFilter, match="too many steps"):
        found(index, " + ".join(["year"] * 200) + " > 0")
    monkeypatch.undo()
    assert found(index, " + ".join(["year"] * 200) + " > 0") == {"0", "1", "2"}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT text FROM texts",
        "SELECT id FROM documents",
        "DELETE FROM documents",
        "PRAGMA user_version",
        "ATTACH ':memory:' AS x",
        "SELECT * FROM sqlite_master",
        "SELECT randomblob(9)",
        "DROP TABLE keys",
    ],
)
def test_the_authorizer_alone_would_do(
    index: Index, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    """Even with no look at the expression, the statement can read nothing else."""
    monkeypatch.setattr(filters, "statement", lambda where, keys: where)
    with pytest.raises(BadFilter, match=r"not authorized|prohibited"):
        found(index, sql)
    assert len(index) == 4


def test_no_keys_yet(tmp_path: Path) -> None:
    with (
        Index.create(tmp_path / "i", DIM) as index,
        pytest.raises(BadFilter, match="known keys: none"),
    ):
        found(index, "year > 1")
