"""Columns, tables, training sets, folders and streams: what becomes an example, and what does not."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from make_pdf import write_pdf
from PIL import Image

from lateint import data
from lateint.data import Column, Columns, DataError
from lateint.evaluation import read_benchmark
from lateint.openers import PdfPage

PAIR = {"q": "red kite", "p": "a bird of prey"}


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def texts(example: data.Example) -> list[Any]:
    return [example.query.value, *(item.value for item in example.documents)]


def test_columns_by_position_are_those_of_sentence_transformers() -> None:
    columns = data.by_position(["score", "anchor", "positive", "negative_1", "negative_2"])
    assert [(c.name, c.role) for c in columns.columns] == [
        ("anchor", "query"),
        ("positive", "document"),
        ("negative_1", "document"),
        ("negative_2", "document"),
    ]
    assert columns.scores == ("score",)
    row = {"anchor": "a", "positive": "p", "negative_1": "n", "negative_2": "m", "score": [3, 1, 0]}
    example = columns.example(row, "row")
    assert texts(example) == ["a", "p", "n", "m"]
    assert example.scores == (3.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("label", "teacher"),
    [
        ([5.0, 2.0, 1.0], (5.0, 2.0, 1.0)),
        ([3.0, 4.0], (0.0, -3.0, -4.0)),  # margins: the positive is 3 and 4 above
        ([], None),
    ],
)
def test_scores_come_a_document_or_as_margins(label: list[float], teacher: Any) -> None:
    columns = data.by_position(["a", "p", "n", "m", "label"])
    row = {"a": "a", "p": "p", "n": "n", "m": "m", "label": label}
    assert columns.example(row, "row").scores == teacher


def test_a_scalar_label_is_the_margin_of_a_triple() -> None:
    columns = data.by_position(["a", "p", "n", "label"])
    example = columns.example({"a": "a", "p": "p", "n": "n", "label": 2.5}, "row")
    assert example.scores == (0.0, -2.5)


def test_lists_prompts_limits_and_order_by_score() -> None:
    columns = Columns(
        (Column("q", "query", prompt="ask: "), Column("d", "document")),
        scores=("s",),
        negatives=2,
        best_first=True,
    )
    row = {"q": "x", "d": ["low", "best", "mid", None, "none"], "s": [1, 9, 5, 0]}
    example = columns.example(row, "row")
    assert texts(example) == ["ask: x", "best", "mid", "low"]
    assert example.scores == (9.0, 5.0, 1.0)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"q": 3, "d": "p"}, "wanted a text, got int"),
        ({"q": "x", "d": None}, "the positive is missing"),
        ({"q": ["x"], "d": "p"}, "wanted one query"),
        ({"q": "x", "d": "p", "s": [1.0, 2.0, 3.0]}, "3 scores for 1 documents"),
        ({"q": "x", "d": "p", "s": 0}, "no answer"),
        ({"q": "x", "d": ["p", "n"], "s": "high"}, "wanted numbers"),
    ],
)
def test_rows_that_do_not_fit_are_errors_with_their_place(row: Any, wanted: str) -> None:
    columns = Columns((Column("q", "query"), Column("d", "document")), ("s",) if "s" in row else ())
    with pytest.raises(DataError, match=wanted) as raised:
        columns.example(row, "f.jsonl, line 7")
    assert str(raised.value).startswith("f.jsonl, line 7")


def test_columns_that_make_no_sense_are_refused() -> None:
    with pytest.raises(DataError, match="role"):
        Column("label", "score")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="prompt"):
        Column("page", "document", "page", "look: ")
    with pytest.raises(DataError, match="one query column"):
        Columns((Column("a", "document"), Column("b", "document")))
    with pytest.raises(DataError, match="named twice"):
        Columns((Column("a", "query"), Column("a", "document")))
    with pytest.raises(DataError, match="by position"):
        data.by_position(["text", "label"])
    with pytest.raises(DataError, match="'pictur'"):
        data.by_position(["a", "b"], modalities={"pictur": "image"})


def test_json_lines_are_read_by_row(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('\ufeff{"q": "a", "p": "ä"}\n\n{"p": "d", "q": "c"}\n', encoding="utf-8")
    found = data.read(path)
    assert len(found) == 2
    assert texts(found[1]) == ["c", "d"]  # by the first line's order
    assert found[1].where == f"{path}, line 3"
    assert found.name == "pairs"


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ('{"q": "a", "p": "b"}\n{"q": "a"\n', "line 2: not JSON"),
        ('{"q": "a", "p": "b"}\n[1]\n', "line 2: wanted an object"),
        ('{"q": "a", "p": "b"}\n{"q": "a"}\n', "line 2: no 'p'"),
        ("\n", "empty"),
        ('{"q": "a"}\n', "by position"),
        ('{"q": "a", "p": 1}\n', "line 1.*wanted a text"),
    ],
)
def test_broken_lines_are_errors_at_once(tmp_path: Path, content: str, wanted: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=wanted):
        data.read(path)


def test_parquet_and_datasets_give_what_json_lines_give(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install 'lateint[train]'")
    rows = [{"q": f"q{i}", "p": f"p{i}", "n": f"n{i}"} for i in range(5)]
    table = datasets.Dataset.from_list(rows)
    table.to_parquet(tmp_path / "t.parquet")
    table.save_to_disk(tmp_path / "saved")
    write_lines(tmp_path / "t.jsonl", rows)
    sets = [data.read(tmp_path / name) for name in ("t.jsonl", "t.parquet", "saved")]
    sets.append(data.as_training_set(table))
    for found in sets:
        assert [texts(found[i]) for i in range(len(found))] == [list(r.values()) for r in rows]
        assert found[2].query.key == sets[0][2].query.key


def test_pictures_in_a_dataset_stay_bytes_until_they_are_wanted(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install 'lateint[train]'")
    rows = {"q": ["red", "blue"], "p": [Image.new("RGB", (4, 4), c) for c in ("red", "blue")]}
    features = datasets.Features({"q": datasets.Value("string"), "p": datasets.Image()})
    table = datasets.Dataset.from_dict(rows, features=features)
    with pytest.raises(DataError, match="wanted a text"):
        data.TableSet(table)
    found = data.TableSet(table, data.by_position(["q", "p"], modalities={"p": "image"}))
    (item,) = found[1].documents
    assert not isinstance(item.value, Image.Image)
    assert item.opened().getpixel((0, 0)) == (0, 0, 255)


def test_files_are_named_beside_the_table_and_stay_there(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    Image.new("RGB", (4, 4), "red").save(folder / "a.png")
    write_pdf(folder / "r.pdf", ["first", "second"])
    Image.new("RGB", (4, 4)).save(tmp_path / "outside.png")
    columns = [Column("q", "query"), Column("d", "document", "page")]

    def read(name: str) -> data.TrainingSet:
        return data.read(write_lines(folder / "t.jsonl", [{"q": "x", "d": name}]), columns)

    assert read("a.png")[0].documents[0].value == folder / "a.png"
    page = read("r.pdf#page=2")[0].documents[0]
    assert page.value == PdfPage(folder / "r.pdf", 2)
    assert page.opened().width > 100
    for name, wanted in (
        ("../outside.png", "outside"),
        ("b.png", "no such file"),
        ("r.pdf", "names no page"),
    ):
        with pytest.raises(DataError, match=wanted):
            read(name)


def test_recordings_of_a_table(tmp_path: Path) -> None:
    from modalities.media import Audio

    column = [Column("q", "query"), Column("d", "document", "audio")]
    tone = np.zeros(800, dtype=np.float32)
    rows = [
        {"q": "x", "d": {"array": tone, "sampling_rate": 8000}},
        {"q": "y", "d": Audio(tone, 8000)},
    ]
    found = data.TableSet(rows, column)
    assert [found[i].documents[0].opened().rate for i in range(2)] == [8000, 8000]
    assert found[0].documents[0].key == found[1].documents[0].key
    with pytest.raises(DataError, match="wanted a recording"):
        data.TableSet([{"q": "x", "d": 3}], column)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "birds"
    (folder / "qrels").mkdir(parents=True)
    write_lines(
        folder / "corpus.jsonl",
        [{"_id": f"d{i}", "title": "", "text": f"document {i}"} for i in range(4)],
    )
    write_lines(
        folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(2)]
    )
    (folder / "qrels" / "train.tsv").write_text(
        "query-id\tcorpus-id\tscore\nq0\td0\t2\nq0\td1\t1\nq0\td2\t0\nq1\td3\t1\n"
    )
    return folder


def test_qrels_give_an_example_for_each_answer(beir: Path) -> None:
    found = data.read(beir)
    assert [texts(found[i]) for i in range(len(found))] == [
        ["query 0", "document 0", "document 2"],
        ["query 0", "document 1", "document 2"],
        ["query 1", "document 3"],
    ]
    hard = {"q0": ["d1", "d3", "d2"], "q1": ["d3", "d0"]}
    mined = data.IdSet.of(read_benchmark(beir, "train"), negatives=hard, number=1)
    assert texts(mined[0]) == ["query 0", "document 0", "document 3"]  # d1 is an answer as well
    assert texts(mined[2]) == ["query 1", "document 3", "document 0"]


def test_rows_of_ids_as_mining_and_pylate_write_them(beir: Path) -> None:
    benchmark = read_benchmark(beir, "train")
    rows = [
        {"query_id": "q0", "positive_id": "d0", "negative_ids": ["d2"], "scores": []},
        {"query_id": "q1", "document_ids": ["d0", "d3", "d1"], "scores": [0.1, 0.9, 0.5]},
    ]
    found = data.IdSet.from_rows(rows, benchmark.queries, benchmark.documents)
    assert texts(found[0]) == ["query 0", "document 0", "document 2"]
    assert found[0].scores is None
    assert texts(found[1]) == ["query 1", "document 3", "document 1", "document 0"]
    assert found[1].scores == (0.9, 0.5, 0.1)
    rows[0]["positive_id"] = "d9"
    with pytest.raises(DataError, match="row 1: no document with id 'd9'"):
        data.IdSet.from_rows(rows, benchmark.queries, benchmark.documents)


def test_a_training_set_is_a_benchmark_too(fixtures: Path) -> None:
    rows = [{"q": "a", "p": "x"}, {"q": "a", "p": "y"}, {"q": "b", "p": "x"}]
    benchmark = data.as_benchmark(data.TableSet(rows))
    assert sorted(benchmark.queries.values()) == ["a", "b"]
    assert sorted(benchmark.documents.values()) == ["x", "y"]
    asked = {benchmark.queries[query]: grades for query, grades in benchmark.qrels.items()}
    found = {q: sorted(benchmark.documents[d] for d in grades) for q, grades in asked.items()}
    assert found == {"a": ["x", "y"], "b": ["x"]}
    pages = data.as_benchmark(data.outline_pages(fixtures / "kestrel-manual.pdf", negatives=2))
    assert (pages.query_modality, pages.document_modality) == ("text", "page")
    assert next(iter(pages.documents.values())).width > 100


def test_outlines_and_sentences_of_pdfs(fixtures: Path) -> None:
    path = fixtures / "kestrel-manual.pdf"
    titles = data.outline_pages(path, negatives=1)
    assert len(titles) >= 2
    for i in range(len(titles)):
        pages = [item.value.number for item in titles[i].documents]
        assert len(set(pages)) == len(pages) == 2
    asked = data.sentence_pages(path)
    from modalities import pdf

    for i in range(len(asked)):
        (page,) = asked[i].documents
        shown = next(iter(pdf.pages(path, dpi=30, numbers=[page.value.number])))
        assert asked[i].query.value in " ".join(shown.text.split())
    again = data.sentence_pages(path)
    assert [again[i].query.value for i in range(len(again))] == [
        asked[i].query.value for i in range(len(asked))
    ]
    assert titles[0].documents[0].opened().width > 100


def test_a_broken_pdf_is_told_or_raised(tmp_path: Path) -> None:
    write_pdf(tmp_path / "good.pdf", ["The gulls of the harbour wake at five."])
    (tmp_path / "bad.pdf").write_bytes(b"%PDF-1.7 broken")
    told: list[str] = []
    found = data.sentence_pages(tmp_path, on_problem=told.append)
    assert len(found) == 1
    assert "bad.pdf" in told[0]
    with pytest.raises(DataError, match=r"bad\.pdf"):
        data.sentence_pages(tmp_path)


def test_captions_from_lines_and_from_files_beside(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"picture {name}\n")
    beside = data.captions(tmp_path)
    assert [texts(beside[i]) for i in range(2)] == [
        ["picture a", tmp_path / "a.png"],
        ["picture b", tmp_path / "b.png"],
    ]
    write_lines(tmp_path / "captions.jsonl", [{"file_name": "b.png", "captions": ["one", "two"]}])
    listed = data.captions(tmp_path, ask="file", prompt="it is ")
    assert [texts(listed[i]) for i in range(2)] == [
        [tmp_path / "b.png", "it is one"],
        [tmp_path / "b.png", "it is two"],
    ]
    assert listed[0].query.key == listed[1].query.key
    write_lines(tmp_path / "captions.jsonl", [{"file_name": "../b.png", "text": "x"}])
    with pytest.raises(DataError, match=r"captions\.jsonl, line 1.*outside"):
        data.captions(tmp_path)


def test_a_stream_is_shuffled_the_same_way_and_shared_out(tmp_path: Path) -> None:
    rows = [{"q": f"q{i}", "p": f"p{i}"} for i in range(40)]
    path = write_lines(tmp_path / "t.jsonl", rows)

    def asked(count: int, **options: Any) -> list[str]:
        stream = data.Stream(path, buffer=8)
        if options:
            stream.share(**options)
        return [example.query.value for example in islice(iter(stream), count)]

    first = asked(80)
    assert first == asked(80)
    assert first[:40] != [row["q"] for row in rows]
    assert {*first} == {row["q"] for row in rows}  # it starts again
    halves = [asked(20, processes=2, rank=rank) for rank in (0, 1)]
    assert not {*halves[0]} & {*halves[1]}
    small = data.Stream(path, buffer=100)
    assert sorted(e.query.value for e in islice(iter(small), 40)) == sorted(r["q"] for r in rows)


def test_a_stream_names_the_line_that_does_not_fit(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "t.jsonl", [PAIR, {"q": "x", "p": 3}])
    with pytest.raises(DataError, match=r"line 2.*wanted a text"):
        list(islice(iter(data.Stream(path)), 2))


def test_what_is_no_training_data_is_refused() -> None:
    with pytest.raises(TypeError, match="training data must be"):
        data.as_training_set(["a", "b"])
    with pytest.raises(DataError, match="no rows"):
        data.TableSet([])
