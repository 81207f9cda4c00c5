"""What the README says is run as it stands there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lateint import cli
from lateint.index import Index

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RIGHT = ("kestrel-manual.pdf", "3")  # the page that answers the README's question


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def first_command() -> str:
    (command,) = [b.strip() for b in blocks("bash") if "lateint search" in b]
    assert "\n" not in command  # one line to paste
    return command


def table_says(out: str) -> tuple[str, str]:
    """Document and page of the first hit of a printed table."""
    lines = out.splitlines()
    head = next(i for i, line in enumerate(lines) if line.split() == HEAD)
    rank, document, page, score, *words = lines[head + 1].split()
    assert rank == "1" and float(score) > 0 and words
    return document, page


HEAD = ["document", "page", "score", "words"]


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixtures: Path) -> Path:
    """A folder that looks like a fresh clone to a command: it stands there, fixtures are below."""
    shutil.copytree(fixtures, tmp_path / "tests" / "fixtures")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_index_and_search_of_the_first_command_find_the_right_page(
    clone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = first_command().split(" && ")
    index, search = steps[-2:]
    assert (index.split()[:2], search.split()[:2]) == (["lateint", "index"], ["lateint", "search"])
    lateint = 'lateint() { "$PYTHON" -m lateint.cli "$@"; }'
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", f"{lateint}; {index} && {search}"],
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stderr == "", done.stderr
    assert re.match(
        r"8 files added, \d+ documents read in [\d.]+ s; \d+ documents in ", done.stdout
    )
    assert table_says(done.stdout) == RIGHT
    with pytest.raises(SystemExit) as end:
        cli.main([*shlex.split(search)[1:], "--json"])
    assert not end.value.code
    hits = json.loads(capsys.readouterr().out)["hits"]
    assert len(hits) == 10 and hits[0]["id"] == "{}#page={}".format(*RIGHT)
    assert hits[0]["source"] == str(clone / "tests" / "fixtures" / RIGHT[0])
    assert hits[0]["score"] == max(hit["score"] for hit in hits)
    matched = {match["word"]: match for match in hits[0]["words"]}
    assert matched.keys() <= set(shlex.split(search)[2].split())
    for word in ("rain", "gauge"):
        x0, y0, x1, y1 = matched[word]["box"]
        assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1
        assert word in matched[word]["found"].lower()


@pytest.mark.slow
def test_the_first_command_in_a_fresh_clone(tmp_path: Path) -> None:
    """All of it: an environment, the installation, the index and the search."""
    archive = subprocess.run(
        ["git", "-C", ROOT, "archive", "HEAD"], capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", tmp_path], input=archive.stdout, check=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME") and "LATEINT" not in name
    }
    done = subprocess.run(
        ["bash", "-c", first_command()],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert table_says(done.stdout) == RIGHT
    assert (tmp_path / ".lateint").is_dir()


def test_python_blocks_run_as_they_stand(clone: Path) -> None:
    names: dict[str, Any] = {}
    printed = []
    for block in blocks("python"):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(block, "README.md", "exec"), names)
        printed.append(out.getvalue())
    papers, index = names["papers"], names["index"]
    lines = printed[0].splitlines()
    assert len(lines) == 5 and lines[0].startswith("{}#page={} ".format(*RIGHT))
    assert "('gauge', (0." in lines[0]
    assert len(papers) > 15 and (clone / "papers.lateint").is_dir()
    assert [hit.id for hit in names["hits"][0]] == ["kite", "gulls"]
    index.close()
    with Index.open(clone / "birds.index") as again:
        assert len(again) == 2
    # what the text below the first block promises
    picture = papers.page_image("{}#page={}".format(*RIGHT))
    picture.save("sketch.png")
    assert papers.search(image="sketch.png", k=1)[0].metadata["path"] == RIGHT[0]
    below = papers.search("dinghy", where="path like ?", params=["pictures/%"])
    assert [hit.id for hit in below] == ["pictures/notice.png"]
    papers.close()


def test_commands_of_the_readme_s_table_exist() -> None:
    from typer.main import get_command

    from lateint.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    rows = re.findall(r"^\| `lateint (\w+)([^`]*)`", README, re.MULTILINE)
    assert {name for name, _ in rows} == set(commands)
    for name, rest in rows:
        known = {option for p in commands[name].params for option in p.opts}
        assert set(re.findall(r"--[\w-]+", rest)) <= known, (name, rest)
