"""lateint eval, compare and mine, in this process, with the model that ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lateint import cli
from lateint.evaluation import read_benchmark, read_run

NOUNS = "kite gull owl tern wren swan crow duck".split()
PLACES = "harbour forest meadow river marsh garden".split()


class Done(NamedTuple):
    status: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def lateint(*arguments: object) -> Done:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Done(int(end.value.code or 0), out, err)

    return lateint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """48 documents, 6 queries; ids with blanks."""
    folder = tmp_path / "sightings"
    (folder / "qrels").mkdir(parents=True)
    names = [f"{noun} {place}" for noun in NOUNS for place in PLACES]
    with (folder / "corpus.jsonl").open("w") as file:
        for name in names:
            noun, place = name.split()
            text = f"A {noun} was seen near the {place} today."
            file.write(json.dumps({"_id": name, "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w") as file:
        for name in names[::8]:
            file.write(json.dumps({"_id": f"q {name}", "text": f"{name} sighting"}) + "\n")
    rows = "\n".join(f"q {name}\t{name}\t1" for name in names[::8])
    for split in ("test", "train"):
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{rows}\n")
    return folder


def test_eval_measures_heads_and_baselines(run: Run, folder: Path) -> None:
    done = run("eval", "--data", folder, "--metric", "nDCG@10", "--metric", "MRR@10", "--json")
    assert done.status == 0, done.err
    found = done.json()
    assert (found["benchmark"], found["queries"], found["documents"]) == ("sightings", 6, 48)
    systems = {row["system"]: row for row in found["systems"]}
    assert [*systems] == ["multi", "multi + BM25", "single", "single + BM25", "BM25"]
    assert systems["multi"]["nDCG@10"] == 1.0
    assert systems["BM25"]["comparison"]["queries"] == 6
    assert found["runs"] == []


def test_eval_prints_a_table_and_writes_a_run(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.trec"
    arguments = ["--heads", "multi", "--no-baselines", "--metric", "MAP", "--run", out]
    done = run("eval", "--data", folder, *arguments)
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0] == "sightings: 6 queries, 48 documents"
    assert [line.split() for line in lines[1:]] == [["system", "MAP"], ["multi", "1.0000"]]
    assert f"run written: {out}" in done.err
    written = read_run(out)
    assert next(iter(written["q%20kite%20harbour"])) == "kite%20harbour"


def test_eval_of_a_part_with_compressed_tokens(run: Run, folder: Path, tmp_path: Path) -> None:
    done = run(
        *("eval", "--data", folder, "--heads", "multi", "--nbits", 4, "--queries", 3),
        *("--documents", 20, "--run", tmp_path / "r.trec", "--json"),
    )
    assert done.status == 0, done.err
    found = done.json()
    assert (found["queries"], found["documents"]) == (3, 20)
    names = ["r.multi.trec", "r.multi+BM25.trec", "r.BM25.trec"]
    assert found["runs"] == [str(tmp_path / name) for name in names]
    assert all(len(read_run(path)) == 3 for path in found["runs"])


def test_compare_tests_runs_against_the_first(run: Run, tmp_path: Path) -> None:
    queries = [f"q{i}" for i in range(12)]
    (tmp_path / "q.qrels").write_text("".join(f"{query} 0 a 1\n" for query in queries))
    for name, score in (("good.trec", 9.0), ("bad.trec", 0.1)):
        rows = [
            line
            for query in queries
            for line in (f"{query} Q0 a 1 {score} x\n", f"{query} Q0 b 2 5.0 x\n")
        ]
        (tmp_path / name).write_text("".join(rows))
    files = [tmp_path / "good.trec", tmp_path / "bad.trec"]
    done = run("compare", *files, "--qrels", tmp_path / "q.qrels", "--metric", "MRR@10", "--json")
    good, bad = done.json()["systems"]
    assert (good["MRR@10"], bad["MRR@10"]) == (1.0, 0.5)
    assert bad["comparison"]["p_value"] == pytest.approx(2 / 2**12)
    assert (bad["comparison"]["worse"], bad["comparison"]["queries"]) == (12, 12)
    shown = run("compare", *files, "--qrels", tmp_path / "q.qrels", "--metric", "MRR@10")
    assert shown.out.splitlines()[0] == "12 queries"
    assert shown.out.splitlines()[-1].split() == [str(files[1]), "0.5000", "0.0005"]
    assert run("compare", *files[:1] * 2, "--qrels", tmp_path / "q.qrels").status == 2


def test_mine_writes_triples(run: Run, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "t.jsonl"
    done = run("mine", "--data", folder, "--out", out, "--number", 3, "--relative", 0, "--json")
    assert done.status == 0, done.err
    assert done.json() == {"file": str(out), "lines": 6, "negatives": 18, "without_negatives": 0}
    benchmark = read_benchmark(folder)
    for line in out.read_text().splitlines():
        record = json.loads(line)
        assert record["query"] == benchmark.queries[record["query_id"]]
        noun, place = record["positive_id"].split()
        for name in record["negative_ids"][:1]:  # the hardest shares a word with the answer
            assert noun in name or place in name
        assert record["positive_id"] not in record["negative_ids"]


def test_mine_with_a_teacher_as_judge(run: Run, folder: Path, tmp_path: Path, shipped: Any) -> None:
    shipped.save(tmp_path / "teacher")
    arguments = [
        "--teacher",
        tmp_path / "teacher",
        "--judge",
        "--ranks",
        "2-10",
        "--pick",
        "random",
    ]
    done = run("mine", "--data", folder, "--out", tmp_path / "t.jsonl", *arguments)
    assert done.status == 0, done.err
    assert done.out.startswith("6 answers with ")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["eval", "--data", "none"], 1, "none: no such folder"),
        (["eval", "none", "--data", "DATA"], 1, "none"),
        (["eval", "--data", "DATA", "--metric", "ndcg"], 1, "metric: got 'ndcg'"),
        (["eval", "--data", "DATA", "--heads", "mulit"], 1, "did you mean 'multi'"),
        (["eval", "--data", "DATA", "--split", "dev"], 1, "splits there: test, train"),
        (["eval"], 2, "--data"),
        (["mine", "--data", "DATA", "--out", "o", "--ranks", "5"], 2, "wants FIRST-LAST"),
        (["mine", "--data", "DATA", "--out", "o", "--ranks", "9-5"], 1, "first not behind last"),
        (["mine", "--data", "DATA", "--out", "o", "--judge"], 2, "--judge goes with --teacher"),
        (["compare", "none", "--qrels", "none"], 1, "none: no such file"),
    ],
)
def test_mistakes_are_one_line(
    run: Run,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*[str(folder) if argument == "DATA" else argument for argument in arguments])
    assert done.status == status
    assert message in " ".join(done.err.replace("│", " ").split())
    if status == 1:
        assert len(done.err.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_help(run: Run) -> None:
    listed = run("--help").out
    for name in ("eval", "compare", "mine"):
        assert f"\n  {name} " in listed
        assert "--json" in run(name, "--help").out
