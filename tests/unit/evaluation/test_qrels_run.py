"""Files of qrels and runs: what is written is read, and what is broken is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lateint.evaluation import qrels_run
from lateint.evaluation.qrels_run import (
    BenchmarkError,
    ranked,
    read_qrels,
    read_run,
    trec_id,
    trec_ids,
    write_qrels,
    write_run,
)

QRELS = {"q1": {"d1": 1, "d2": 0}, "q2": {"d3": 3, "d1": -1}}
RUN = {"q1": {"d2": 0.25, "d1": 12.5}, "q2": {"d3": -1.0}}
IDS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)


@pytest.mark.parametrize("layout", ["trec", "beir"])
def test_qrels_survive_both_layouts(tmp_path: Path, layout: str) -> None:
    write_qrels(tmp_path / "q", QRELS, layout)  # type: ignore[arg-type]
    assert read_qrels(tmp_path / "q") == QRELS
    first = (tmp_path / "q").read_text().splitlines()[0]
    assert first == {"trec": "q1 0 d1 1", "beir": "query-id\tcorpus-id\tscore"}[layout]
    assert [path.name for path in tmp_path.iterdir()] == ["q"]  # nothing half-written beside


def test_a_beir_file_needs_no_header_and_takes_blanks_in_ids(tmp_path: Path) -> None:
    path = tmp_path / "test.tsv"
    path.write_text("query one\tdoc one\t1\r\nquery one\tdoc two\t2.0\n", encoding="utf-8-sig")
    assert read_qrels(path) == {"query one": {"doc one": 1, "doc two": 2}}


def test_a_run_survives_and_stands_best_first(tmp_path: Path) -> None:
    write_run(tmp_path / "r.trec", RUN, tag="mine")
    assert (tmp_path / "r.trec").read_text().splitlines() == [
        "q1 Q0 d1 1 12.5 mine",
        "q1 Q0 d2 2 0.25 mine",
        "q2 Q0 d3 1 -1 mine",
    ]
    assert read_run(tmp_path / "r.trec") == RUN


def test_a_run_as_mteb_writes_it(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(RUN))
    assert read_run(tmp_path / "r.json") == RUN


@given(st.dictionaries(IDS, st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=9))
def test_any_id_and_score_survive(tmp_path_factory: pytest.TempPathFactory, found: dict) -> None:
    path = tmp_path_factory.mktemp("run") / "r.trec"
    if not found:
        return
    run = trec_ids({"a query": found})
    write_run(path, run)
    again = read_run(path)
    assert list(again) == ["a%20query"]
    assert again["a%20query"] == pytest.approx(run["a%20query"], rel=1e-7, abs=1e-40)
    assert ranked(again["a%20query"]) == ranked(run["a%20query"])
    assert len(run["a%20query"]) == len(found)  # no two ids become one


def test_equal_scores_go_by_id() -> None:
    assert ranked({"b": 1.0, "c": 2.0, "a": 1.0}) == ["c", "a", "b"]


def test_ids_for_trec_files() -> None:
    assert trec_id("my report.pdf#page=3") == "my%20report.pdf#page=3"
    assert trec_id("100%\u2003sure") == "100%25%E2%80%83sure"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 0 d1\n", "whole number"),
        ("q1 d1\n", "line 1: got 'q1 d1'; wanted"),
        ("q1 0 d1 1 2\n", "wanted `query 0 document grade`"),
        ("q1 0 d1 high\n", "whole number"),
        ("q1 0 d1 0.5\n", "whole number"),
        ("q1 0 d1 1_0\n", "whole number"),
        ("q1 0 d1 nan\n", "whole number"),
        ("q1 0 d1 1e9\n", "whole number"),
        ("q1 0 d1 1\n\nq1 0 d1 2\n", "line 3: query 'q1' and document 'd1' have grade 2 here"),
        ("q1\t\t1\n", "ids that are not empty"),
        ("", "holds no qrels"),
        ("query-id\tcorpus-id\tscore\n", "holds no qrels"),
    ],
)
def test_broken_qrels(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "q.tsv"
    path.write_text(text)
    with pytest.raises(BenchmarkError, match=r"q\.tsv") as caught:
        read_qrels(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.trec", "q1 Q0 d1 1 2.0\n", "wanted `query Q0 document rank score tag`"),
        ("r.trec", "q1 Q0 d1 1 inf x\n", "finite number"),
        ("r.trec", "q1 Q0 d1 1 2 x\nq1 Q0 d1 2 1 x\n", "comes twice"),
        ("r.trec", "\n", "holds no run"),
        ("r.json", "[1]", "wanted {query: {document: score}}"),
        ("r.json", "{}", "wanted {query"),
        ("r.json", '{"q": 1}', "query 'q' has int"),
        ("r.json", '{"q": {"d": "1"}}', "document 'd' has score '1'"),
        ("r.json", '{"q": {"d": NaN}}', "document 'd' has score nan"),
        ("r.json", '{"q": ', "not JSON"),
        ("r.json", "[" * 200_000, "not JSON"),
    ],
)
def test_broken_runs(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BenchmarkError) as caught:
        read_run(tmp_path / name)
    assert message in str(caught.value)


def test_limits_and_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BenchmarkError, match="no such file"):
        read_qrels(tmp_path / "none")
    with pytest.raises(BenchmarkError, match="not a regular file"):
        read_qrels(tmp_path)
    (tmp_path / "bytes").write_bytes(b"q \xff d 1\n")
    with pytest.raises(BenchmarkError, match="line 1: not UTF-8"):
        read_qrels(tmp_path / "bytes")
    (tmp_path / "long").write_text("q 0 d 1" + " " * qrels_run.MAX_LINE)
    with pytest.raises(BenchmarkError, match="longer than"):
        read_qrels(tmp_path / "long")
    monkeypatch.setattr(qrels_run, "MAX_LINES", 2)
    (tmp_path / "many").write_text("q 0 d1 1\nq 0 d2 1\nq 0 d3 1\n")
    with pytest.raises(BenchmarkError, match="more than 2 lines"):
        read_qrels(tmp_path / "many")
    monkeypatch.setattr(qrels_run, "MAX_JSON", 4)
    (tmp_path / "big.json").write_text(json.dumps(RUN))
    with pytest.raises(BenchmarkError, match="larger than 4 bytes"):
        read_run(tmp_path / "big.json")


def test_what_cannot_be_written_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "r"
    write_run(path, RUN)
    before = path.read_bytes()
    for run, message in (
        ({"q": {"a b": 1.0}}, "trec_id"),
        ({"": {"a": 1.0}}, "is empty"),
        ({"q": {"ok": 1.0, "d": float("nan")}}, "finite number"),
    ):
        with pytest.raises(BenchmarkError, match=message):
            write_run(path, run)
    with pytest.raises(BenchmarkError, match="whole number"):
        write_qrels(path, {"q": {"d": 0.5}})  # type: ignore[dict-item]
    with pytest.raises(BenchmarkError, match="the beir layout"):
        write_qrels(path, {"q": {"a\tb": 1}}, "beir")
    with pytest.raises(ValueError, match="layout"):
        write_qrels(path, QRELS, "csv")  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["r"]
