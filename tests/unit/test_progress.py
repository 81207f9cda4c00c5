from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from lateint.progress import watching

FILES = [Path("a.pdf"), Path("b [1].pdf")]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_function_is_told_number_total_and_documents() -> None:
    told: list[tuple[object, ...]] = []
    with watching(lambda *facts: told.append(facts), FILES) as show:
        show(FILES[0], 0)
        show(FILES[1], 7)
    assert told == [(FILES[0], 1, 2, 0), (FILES[1], 2, 2, 7)]


@pytest.mark.parametrize("wanted", [True, False])
def test_nothing_is_written_where_nobody_watches(
    wanted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    with watching(wanted, FILES) as show:
        show(FILES[0], 1)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_that_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with watching(True, FILES) as show:
        show(FILES[1], 41)
    shown = re.sub(r"\x1b\[[\d;?]*\w", "", terminal.getvalue())
    assert "1/2 files, 41 documents" in shown
    assert "b [1].pdf" in shown  # brackets are no style
