"""The command line, in this process where that proves the same, else as a person would run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from make_pdf import write_broken, write_encrypted, write_pdf
from PIL import Image

from lateint import cli
from lateint.collection import Collection
from lateint.pagecache import PageCache

ROOT = Path(__file__).resolve().parents[2]


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
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own to stand in, with two documents."""
    folder = tmp_path / "hier steht's"
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_pdf(folder / "größe [1].pdf", ["rain gauge\ncounter", "battery"])
    (folder / "notes.txt").write_text("The heron waits at the weir.")
    return folder


def command(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "lateint.cli", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def cpu_seconds(code: str) -> float:
    """User and system time of a fresh interpreter that runs `code`: waiting does not count."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


HELP = "import sys; sys.argv = ['lateint', '--help']; from lateint.cli import main; main()"


@pytest.mark.parametrize(("code", "limit"), [("import lateint", 0.3), (HELP, 1.0)])
def test_starting_costs_little(code: str, limit: float) -> None:
    """CPU time of the fastest of three, so that a busy machine does not fail it."""
    assert min(cpu_seconds(code) for _ in range(3)) < limit


def test_help_and_version_need_nothing_heavy() -> None:
    code = f"{HELP[:-6]}\ntry: main()\nexcept SystemExit: pass\nprint(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert "Usage: lateint" in out
    assert {"torch", "numpy", "PIL", "rich", "transformers"}.isdisjoint(out.split())


def test_every_command_has_help_and_json(run: Run) -> None:
    listed = run("--help").out
    for name in ("index", "search", "add", "delete", "info"):
        assert f"\n  {name} " in listed
        assert "--json" in run(name, "--help").out
    assert run("--version").out.strip() == __import__("lateint").__version__
    assert run().status in (0, 2)  # typer's versions differ; help is shown


def test_delete_takes_names_of_documents_and_paths_of_files(run: Run, here: Path) -> None:
    (here / "sub").mkdir()
    for path in (here / "sub" / "a.txt", here / "sub" / "b.txt", here / "c.txt"):
        path.write_text("red kite")
    run("index", here)
    assert run("delete", "sub/a.txt").out == "deleted 1 documents\n"
    assert run("delete", here / "sub" / "b.txt", "./c.txt").out == "deleted 2 documents\n"
    (here / "notes.txt").unlink()  # a file that is gone can be named too
    assert run("delete", here / "notes.txt").out == "deleted 1 documents\n"
    assert run("info", "--json").json()["documents"] == 2


def test_from_folder_to_table_and_back(run: Run, here: Path) -> None:
    done = run("index", here)
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith("2 files added, 3 documents read in ")
    assert f"3 documents in {here / '.lateint'}\n" in done.out
    head, first, *others = run("search", "rain gauge counter").out.splitlines()
    assert head.split() == ["document", "page", "score", "words"]
    assert first.startswith("1  größe [1].pdf") and first.split()[3] == "1"
    assert {w.strip(",") for w in first.split()[5:]} == {"rain", "gauge", "counter"}
    assert len(others) == 2
    assert all(line == line.rstrip() for line in (head, first, *others))
    assert run("index", here).out.startswith("0 files added, 2 unchanged, 0 documents read")
    info = run("info").out
    assert "documents   3 from 2 files" in info and "problems    none" in info
    assert run("delete", "größe [1].pdf#page=2").out == "deleted 1 documents\n"
    assert run("delete", "größe [1].pdf").out == "deleted 1 documents\n"
    assert run("search", "rain", "-k", 5).out.count("\n") == 2
    assert "page-less" not in info


def test_json_of_every_command(run: Run, here: Path) -> None:
    report = run("index", ".", "--json", "--meta", "year=2024", "--meta", "by=me").json()
    assert report["collection"] == str(here / ".lateint")
    assert (report["files_added"], report["documents"], report["problems"]) == (2, 3, [])
    found = run("search", "heron at the weir", "--json", "-k", 2).json()
    best, second = found["hits"]
    assert found["query"] == "heron at the weir" and found["image"] is None
    assert (best["id"], best["page"], best["source"]) == (
        "notes.txt",
        None,
        str(here / "notes.txt"),
    )
    assert (best["metadata"]["year"], best["metadata"]["by"]) == (2024, "me")
    assert best["score"] > second["score"] and best["words"][0]["box"] is None
    assert second["words"][0].keys() == {"word", "score", "box", "found"}
    only = run("search", "heron", "--where", "page = 2", "--json").json()["hits"]
    assert [hit["id"] for hit in only] == ["größe [1].pdf#page=2"]
    each = run("search", "heron", "--group-by", "path", "--json").json()["hits"]
    assert len(each) == 2
    info = run("info", "--json").json()
    assert (info["documents"], info["files"], info["problems"]) == (3, 2, [])
    assert "year" in info["metadata_keys"]
    more = run("add", "notes.txt", "--meta", "year=2025", "--json").json()
    assert (more["files_updated"], more["documents"]) == (1, 1)
    assert run("delete", "notes.txt", "--json").json() == {"deleted": 1}
    (here / "größe [1].pdf").rename("renamed.pdf")
    assert ", 1 gone (--prune removes them), " in run("index", ".").out
    assert run("index", ".", "--prune", "--json").json()["files_removed"] == 1
    assert ", 1 gone" not in run("index", ".").out


def test_asking_with_a_picture(run: Run, here: Path) -> None:
    run("index", ".")
    with Collection.open(".lateint") as collection:
        collection.page_image("größe [1].pdf#page=1").save("ask.png")
    hits = run("search", "--image", "ask.png", "--json").json()["hits"]
    assert hits[0]["id"] == "größe [1].pdf#page=1" and hits[0]["words"] == []


def test_hybrid_ranks_by_model_and_words(run: Run, here: Path) -> None:
    (here / "kite.txt").write_text("The heron and a kite.")
    assert run("index", here).status == 0
    fused = run("search", "heron weir", "--hybrid", "--json").json()["hits"]
    assert fused[0]["id"] == "notes.txt"
    assert 0 < fused[1]["score"] < fused[0]["score"] < 0.1  # of ranks, not of MaxSim
    shown = run("search", "heron weir", "--hybrid").out.splitlines()[1]
    assert f"{fused[0]['score']:.4f}" in shown
    words = here / "q.jsonl"
    words.write_text('{"id": "a", "text": "heron weir"}\n', encoding="utf-8")
    lines = run("search", "--queries", words, "--hybrid").out.splitlines()
    assert [line.split()[2] for line in lines] == [h["id"].replace(" ", "%20") for h in fused]
    picture = here / "p.png"
    Image.new("RGB", (64, 64)).save(picture)
    assert run("search", "--image", picture, "--hybrid").status == 2


def test_many_queries_make_a_trec_run(run: Run, here: Path) -> None:
    run("index", ".")
    queries = here / "q.jsonl"
    lines = [
        {"id": "a", "text": "rain gauge"},
        {"id": 7, "text": "heron"},
        {"id": "c", "text": "天气"},
    ]
    queries.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    done = run("search", "--queries", queries, "--run", "out.trec")
    assert done.out == "2 queries answered, 6 lines in out.trec\n"
    assert done.err == "query c: the model reads no word in '天气'\n"
    rows = [line.split(" ") for line in Path("out.trec").read_text().splitlines()]
    assert all(len(row) == 6 and row[1] == "Q0" and row[5] == "lateint" for row in rows)
    assert [row[0] for row in rows] == ["a"] * 3 + ["7"] * 3
    assert [row[3] for row in rows] == ["1", "2", "3"] * 2
    assert rows[0][2] == "größe%20[1].pdf#page=1" and rows[3][2] == "notes.txt"
    scores = [float(row[4]) for row in rows[:3]]
    assert scores == sorted(scores, reverse=True)
    facts = run("search", "--queries", queries, "--run", "out.trec", "--json").json()
    assert facts == {"run": "out.trec", "queries": 2, "lines": 6}
    assert run("search", "--queries", queries, "-k", 1).out.count("\n") == 2  # stdout
    assert [p.name for p in here.glob(".out*")] == []


@pytest.mark.parametrize(
    ("document", "written"),
    [("a b.pdf#page=1", "a%20b.pdf#page=1"), ("5%.txt", "5%25.txt"), ("a\u3000b", "a%E3%80%80b")],
)
def test_trec_ids_have_no_blanks_and_can_be_told_apart(document: str, written: str) -> None:
    assert cli.trec_id(document) == written


WRONG: list[tuple[list[str], int, str]] = [
    (["index"], 2, "PATH..."),
    (["index", "nowhere.pdf"], 1, "nowhere.pdf: no such file or folder"),
    (["index", ".", "--meta", "year"], 2, "KEY=VALUE"),
    (["index", ".", "--meta", "path=x"], 1, "path"),
    (["index", ".", "--model", "no-model", "-c", "new"], 1, "no-model"),
    (["index", ".", "--dpi", "5", "-c", "new"], 1, "dpi"),
    (["index", ".", "-c", "full"], 1, "full: not a collection, and not empty"),
    (["add", ".", "-c", "none"], 1, "none: there is no collection here"),
    (["search"], 2, "QUERY"),
    (["search", "two", "words"], 2, "words"),
    (["search", "x", "--image", "y.png"], 2, "wanted one of"),
    (["search", "x", "--run", "r"], 2, "--queries"),
    (["search", "x", "-k", "0"], 2, "-k"),
    (["search", " "], 1, "wanted some words"),
    (["search", "x", "-c", "none"], 1, "none: there is no collection here; make one with `lateint"),
    (["search", "x", "--where", "title <"], 1, "title <"),
    (["search", "x", "--where", "author = 'me'"], 1, "metadata key 'author'"),
    (["search", "x", "--where", "1; drop table documents"], 1, "drop table"),
    (["search", "--image", "gone.png"], 1, "gone.png: no such file"),
    (["search", "--image", "full/diary.csv"], 1, "full/diary.csv: no picture"),
    (["search", "--queries", "gone.jsonl"], 1, "gone.jsonl"),
    (["search", "--queries", "bad.jsonl"], 1, "bad.jsonl, line 2: wanted"),
    (["search", "--queries", "twice.jsonl"], 1, "twice.jsonl, line 2: id 'a'"),
    (["search", "--queries", "latin.jsonl"], 1, "latin.jsonl"),
    (["search", "--queries", "ok.jsonl", "--json"], 2, "--run FILE"),
    (["search", "--queries", "ok.jsonl", "--run", "gone/r.trec"], 1, "gone/"),
    (["info", "-c", "none"], 1, "none: there is no collection here"),
    (["delete", "gone.pdf"], 1, "gone.pdf: neither a document nor a file"),
    (["delete", "x", "-c", "none"], 1, "none: there is no collection here"),
    (["explain"], 2, "explain"),
]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small collection and wrong things; no case changes it."""
    folder = tmp_path_factory.mktemp("standing")
    (folder / "notes.txt").write_text("The heron waits.")
    (folder / "full").mkdir()
    (folder / "full" / "diary.csv").write_text("dear diary")
    (folder / "ok.jsonl").write_text('{"id": "a", "text": "x"}\n')
    (folder / "bad.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "b"}\n')
    (folder / "twice.jsonl").write_text('{"id": "a", "text": "x"}\n{"id": "a", "text": "y"}\n')
    (folder / "latin.jsonl").write_bytes('{"id": "a", "text": "Grüße"}\n'.encode("latin-1"))
    with Collection.create(folder / ".lateint") as collection:
        collection.add(folder / "notes.txt")
    return folder


@pytest.mark.parametrize(("arguments", "status", "says"), WRONG, ids=lambda x: str(x)[:50])
def test_wrong_calls_are_one_clear_line(
    run: Run,
    standing: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    status: int,
    says: str,
) -> None:
    monkeypatch.chdir(standing)
    before = sorted(standing.rglob("*"))
    done = run(*arguments)
    assert (done.status, done.out) == (status, "")
    assert says in done.err and "Traceback" not in done.err
    if status == 1:
        assert done.err.startswith("lateint: ") and done.err.count("\n") == 1
    assert sorted(standing.rglob("*")) == before  # nothing made, nothing half done


def test_bad_files_are_named_and_the_status_says_whether_any_was_good(run: Run, here: Path) -> None:
    bad = [write_broken(here / "a broken.pdf"), write_encrypted(here / "locked.pdf")]
    done = run("index", here)
    assert done.status == 0 and done.out.startswith("2 files added, 2 problems, 3 documents read")
    assert [line.split(": ")[:2] for line in done.err.splitlines()] == [
        ["not indexed", str(path)] for path in bad
    ]
    assert "Traceback" not in done.err
    again = run("index", here, "--json")
    assert again.status == 0 and [p["path"] for p in again.json()["problems"]] == [*map(str, bad)]
    info = run("info").out
    assert "problems    2\n" in info and f"  {bad[1]}: encrypted" in info
    for paths in ([bad[0]], bad):
        done = run("add", *paths)
        assert done.status == 1 and done.err.count("not indexed") == len(paths)
    assert run("index", bad[0], "-c", "other").status == 1
    assert (
        "other" in run("search", "x", "-c", "other").err or run("info", "-c", "other").status == 0
    )


def test_names_cannot_write_to_the_terminal(run: Run, here: Path) -> None:
    write_pdf(here / "red\x1b[31m\nline.pdf", ["alarm bell"])
    write_broken(here / "bad\x1b[2J\n.pdf")
    (here / os.fsdecode(b"not-utf8-\xff.pdf")).write_bytes(b"%PDF")
    done = run("index", here)
    assert done.status == 0 and done.err.count("\n") == 2
    assert "not-utf8-\ufffd.pdf: the file's name is not valid Unicode" in done.err
    assert len(run("index", here, "--json").json()["problems"]) == 2
    first = run("search", "alarm bell").out.splitlines()[1]
    assert "red?[31m?line.pdf" in first
    for text in (done.out, done.err, first, run("info").out):
        assert "\x1b" not in text


@pytest.mark.parametrize("query", ["...", "?!", "天气站", "🐦"])
def test_a_query_that_the_model_cannot_read_has_no_hits(
    run: Run, standing: Path, query: str
) -> None:
    done = run("search", query, "-c", standing / ".lateint")
    assert (done.status, done.out) == (0, "")
    assert done.err == f"no hits: the model reads no word in {query!r}\n"
    assert run("search", query, "-c", standing / ".lateint", "--json").json()["hits"] == []


def test_stop_words_and_very_long_queries_have_hits(run: Run, standing: Path) -> None:
    for query in ("the", "the of and", "heron " * 5000, "x" * 100_000):
        assert run("search", query, "-c", standing / ".lateint").out.count("\n") == 2


def test_an_empty_folder_and_a_search_in_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = run("index", tmp_path / "empty", "-c", tmp_path / "c")
    assert done.status == 0 and done.out.startswith("0 files added")
    done = run("search", "x", "-c", tmp_path / "c")
    assert (done.status, done.out) == (0, "") and "the collection is empty" in done.err


def test_the_collection_comes_from_the_environment_too(
    run: Run, standing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATEINT_COLLECTION", str(standing / ".lateint"))
    assert run("info", "--json").json()["documents"] == 1


def test_the_page_s_own_word_stands_beside_the_query_s() -> None:
    assert cli.collection._word("charge", "charging") == "charge (charging)"
    assert cli.collection._word("counter", "Counter:") == "counter"
    assert cli.collection._word("counter", "contains:") == "counter (contains)"
    assert cli.collection._word("rain", "") == "rain"
    assert cli.collection._word("rain", "...") == "rain (...)"
    assert len(cli.collection._word("counter", "." * 200)) < 50
    assert cli.collection._word("rain", "a wet word " * 9).startswith("rain (a wet word")


def test_debug_shows_where_an_error_comes_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATEINT_DEBUG", "1")
    with pytest.raises(ValueError, match="nowhere"):
        cli.main(["index", "nowhere"])


def test_a_closed_pipe_is_no_error_worth_a_traceback(standing: Path) -> None:
    with command("info", "-c", standing / ".lateint") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def test_ctrl_c_leaves_a_collection_that_goes_on(
    run: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes while the fifth of twelve pages is at hand, and two pages make a commit."""
    for i in range(6):
        write_pdf(here / f"{i}.pdf", ["rain gauge", f"battery {i}"])
    monkeypatch.setattr("lateint.ingest.WINDOW_DOCUMENTS", 2)
    monkeypatch.setattr("lateint.ingest.COMMIT_DOCUMENTS", 2)
    kept: list[str] = []
    put = PageCache.put

    def interrupted(self: PageCache, document: str, *rest: Any) -> None:
        kept.append(document)
        if len(kept) == 5:
            signal.raise_signal(signal.SIGINT)
        put(self, document, *rest)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & ignores it
    try:
        with monkeypatch.context() as patch:
            patch.setattr(PageCache, "put", interrupted)
            done = run("index", here)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (done.status, done.out) == (130, "")
    assert done.err == "stopped: what was committed is there; the same command goes on from it\n"
    with Collection.open(here / ".lateint") as collection:
        assert collection.ids() == kept[:4]
    again = run("index", here, "--json").json()
    assert (again["documents"], again["problems"]) == (15 - 4, [])
    assert run("search", "heron", "-k", 1).out.splitlines()[1].split()[1] == "notes.txt"


def test_a_collection_of_a_folder_that_may_only_be_read(
    run: Run, standing: Path, tmp_path: Path
) -> None:
    papers = tmp_path / "papers"
    papers.mkdir()
    Image.new("RGB", (40, 40), "white").save(papers / "white.png")
    (papers / "a.txt").write_text("red kite")
    for path in (*papers.iterdir(), papers):
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        assert run("index", papers, "-c", tmp_path / "c").status == 0
        assert (
            run("search", "kite", "-c", tmp_path / "c", "--json").json()["hits"][0]["id"] == "a.txt"
        )
    finally:
        papers.chmod(0o755)
