"""The command line: index, search, add, delete, info; eval, compare, mine; train.

A thin skin over the library: it parses, calls and prints. Results go to stdout, everything else to
stderr. Exit status: 0 done (files that could not be read are named on stderr), 1 an error (one line
on stderr) or none of the files could be read, 2 wrong usage, 130 stopped with Ctrl-C. Heavy imports
are inside the commands, so that `lateint --help` is there at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Annotated, Any

import typer

from lateint.cli import collection, evaluation, training
from lateint.cli.shared import say
from lateint.evaluation.qrels_run import trec_id

__all__ = ["COMMANDS", "app", "main", "trec_id"]

COMMANDS: tuple[Callable[..., Any], ...] = (
    collection.index,
    collection.add,
    collection.search,
    collection.info,
    collection.delete,
    evaluation.eval,
    evaluation.compare,
    evaluation.mine,
    training.train,
)
"""In the order of the help; a command is called as its function, says what its docstring says."""

app = typer.Typer(
    name="lateint",
    help="Search PDFs, pictures, texts and recordings by what they show and say. Works offline.",
    epilog="Exit status: 0 done, files that could not be read are named on stderr; 1 an error, or "
    "none of the files could be read; 2 wrong usage. LATEINT_DEBUG=1 shows where an error comes from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: rich would take half a second to import
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in COMMANDS:
    app.command()(command)


@app.callback(invoke_without_command=True)
def _lateint(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        from lateint import __version__

        print(__version__)
        raise typer.Exit


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of the `lateint` command; ends with SystemExit."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here needs a model hub
    for stream in (
        sys.stdout,
        sys.stderr,
    ):  # a terminal that lacks a letter of a name shows its code
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(args=None if arguments is None else list(arguments), prog_name="lateint")
    except Exception as error:
        if os.environ.get("LATEINT_DEBUG"):
            raise
        text = " ".join(str(error).split()) or type(error).__name__
        say(f"lateint: {text}")
        sys.exit(1)
