"""What the commands share: options that several have, and how they print and fail.

Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any, NoReturn

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def one_line(text: str) -> str:
    """A text on one line of a terminal: line ends and control characters in names as `?`."""
    return "".join(c if c.isprintable() else "?" for c in text)


def print_json(value: Any) -> None:
    """A result, indented, on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr)


def fail(reason: str) -> NoReturn:
    """One line on stderr, exit status 1."""
    say(f"lateint: {reason}")
    raise typer.Exit(1)
