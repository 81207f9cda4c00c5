"""The commands of a collection: index, search, add, delete, info; and TREC runs.

A thin skin over `Collection`; heavy imports are inside the commands.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lateint.cli.shared import Json, fail, one_line, print_json, say
from lateint.evaluation.qrels_run import trec_id

if TYPE_CHECKING:
    from lateint.collection import Collection, Hit, Match
    from lateint.ingest import AddReport

DEFAULT = Path(".lateint")
BATCH = 64  # queries answered at once
WORDS = 6  # best-matching words shown for a hit
WORTH = 0.5  # of what a word has in the hit where it matches best: less is no match worth naming
UNCUT = 10_000  # columns of a table that goes into a pipe or a file
SHOWN = 30  # letters of the page's own words at a word; dotted lines of a contents page are longer
AROUND = ".,;:!?()[]{}<>\"'«»“”„‘’…"  # punctuation that a text layer's words have at their ends

Where = Annotated[
    Path,
    typer.Option(
        "--collection", "-c", envvar="LATEINT_COLLECTION", help="Folder of the collection."
    ),
]
Paths = Annotated[
    list[Path],
    typer.Argument(metavar="PATH...", help="Files, or folders with all that is in them."),
]
Meta = Annotated[
    list[str] | None,
    typer.Option(
        "--meta", metavar="KEY=VALUE", help="Metadata to keep with these files; repeatable."
    ),
]
Prune = Annotated[
    bool, typer.Option("--prune", help="Also remove what came from files that are gone.")
]
Model = Annotated[
    Path | None,
    typer.Option("--model", help="Folder of a saved model; default: the one that ships."),
]


def index(
    paths: Paths,
    collection: Where = DEFAULT,
    model: Model = None,
    dpi: Annotated[float, typer.Option(help="Of rendered PDF pages; for a new collection.")] = 100,
    cache: Annotated[
        bool, typer.Option(help="Keep a picture of each page; for a new collection.")
    ] = True,
    meta: Meta = None,
    prune: Prune = False,
    as_json: Json = False,
) -> None:
    """Make a collection of files, or bring it up to date. Only what is new or changed is read."""
    from lateint.collection import Collection
    from lateint.collection_files import canonical, exists

    for path in paths:
        canonical(path)  # a mistyped path is no reason to make a collection
    if exists(collection):
        opened = Collection.open(collection, model)
    else:
        opened = Collection.create(collection, model, dpi=dpi, cache_pages=cache)
    with opened:
        _add(opened, paths, meta, prune, as_json)


def add(
    paths: Paths,
    collection: Where = DEFAULT,
    meta: Meta = None,
    prune: Prune = False,
    as_json: Json = False,
) -> None:
    """Add files to a collection that exists; what changed is read again."""
    with _open(collection) as opened:
        _add(opened, paths, meta, prune, as_json)


def search(
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="What to look for.")] = None,
    collection: Where = DEFAULT,
    k: Annotated[
        int | None, typer.Option("-k", min=1, help="Hits a query; default 10, with --queries 100.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Look for pages like this picture.")] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Look for what fits this recording, of up to a minute.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(help="SQL over metadata: \"path like 'reports/%' and page < 10\".")
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(help="Metadata key: only the best hit of each value (path: of each file)."),
    ] = None,
    hybrid: Annotated[
        bool, typer.Option("--hybrid", help="Fuse with BM25 over text layers and texts.")
    ] = False,
    queries: Annotated[
        Path | None,
        typer.Option(help='Answer a file of queries, a line each: {"id": ..., "text": ...}.'),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Write the answers to --queries as a TREC run; default stdout."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the pages that match best, and which words matched."""
    given = [what for what in (query, image, audio, queries) if what is not None]
    if len(given) != 1:
        raise typer.BadParameter("wanted one of QUERY, --image, --audio and --queries")
    if run is not None and queries is None:
        raise typer.BadParameter("--run goes with --queries")
    if hybrid and query is None and queries is None:
        raise typer.BadParameter("--hybrid goes with QUERY or --queries")
    with _open(collection) as opened:
        if queries is not None:
            options = {"k": k or 100, "where": where, "group_by": group_by, "hybrid": hybrid}
            _answer(opened, queries, run, options, as_json)
            return
        hits = opened.search(
            query,
            k or 10,
            image=image,
            audio=audio,
            where=where,
            group_by=group_by,
            hybrid=hybrid,
        )
        unread = query is not None and not hits and not opened.model.reads(query)
    if as_json:
        asked = {"query": query, "image": image and str(image), "audio": audio and str(audio)}
        print_json({**asked, "hits": [h.to_json() for h in hits]})
    elif hits:
        _print_hits(hits)
    elif unread:
        say(f"no hits: the model reads no word in {query!r}")
    else:
        say("no hits: nothing fits, or the collection is empty")


def info(collection: Where = DEFAULT, as_json: Json = False) -> None:
    """What a collection holds, and which files could not be read."""
    with _open(collection) as opened:
        facts = opened.info()
    if as_json:
        print_json(facts.to_json())
        return
    print(f"collection  {facts.path}")
    print(
        f"documents   {facts.documents} from {facts.files} files ({facts.blank} blank pages besides)"
    )
    print(f"tokens      {facts.tokens}, {facts.index_bytes / 1e6:.1f} MB on the disk")
    print(f"page cache  {facts.cache_bytes / 1e6:.1f} MB (can be deleted)")
    print(f"model       {facts.model} ({facts.fingerprint}), pages at {facts.dpi:g} dpi")
    print(f"folders     {', '.join(facts.folders) or 'none yet'}")
    print(f"metadata    {', '.join(facts.metadata_keys) or 'none yet'}")
    print(f"problems    {len(facts.problems) or 'none'}")
    for problem in facts.problems:
        print(f"  {one_line(problem.path)}: {problem.reason}")


def delete(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Files (report.pdf) or pages (report.pdf#page=3)."),
    ],
    collection: Where = DEFAULT,
    as_json: Json = False,
) -> None:
    """Take documents out of a collection. The files themselves stay where they are."""
    with _open(collection) as opened:
        gone = opened.remove(*names)
    if as_json:
        print_json({"deleted": gone})
    else:
        print(f"deleted {gone} documents")


def _open(path: Path) -> Collection:
    from lateint.collection import Collection
    from lateint.collection_files import exists

    if not exists(path):
        fail(f"{path}: there is no collection here; make one with `lateint index PATH`")
    return Collection.open(path)


def _add(
    collection: Collection, paths: list[Path], meta: list[str] | None, prune: bool, as_json: bool
) -> None:
    metadata = None if meta is None else dict(_pair(text) for text in meta)
    try:
        report = collection.add(*paths, metadata=metadata, prune=prune, progress=True)
    except KeyboardInterrupt:
        say("stopped: what was committed is there; the same command goes on from it")
        raise typer.Exit(130) from None
    if as_json:
        print_json({"collection": str(collection.path), **report.to_json()})
    else:
        for problem in report.problems:
            say(f"not indexed: {one_line(problem.path)}: {problem.reason}")
        print(f"{_summary(report)}; {len(collection)} documents in {collection.path}")
    good = report.files_added + report.files_updated + report.files_unchanged
    if report.problems and (good == 0 or len(collection) == 0):
        raise typer.Exit(1)


def _summary(report: AddReport) -> str:
    parts = [
        f"{report.files_added} files added",
        f"{report.files_updated} updated" if report.files_updated else "",
        f"{report.files_unchanged} unchanged" if report.files_unchanged else "",
        f"{report.files_removed} removed" if report.files_removed else "",
        f"{report.files_missing} gone (--prune removes them)" if report.files_missing else "",
        f"{len(report.problems)} problems" if report.problems else "",
        f"{report.documents} documents read in {report.seconds:.1f} s",
    ]
    return ", ".join(part for part in parts if part)


def _pair(text: str) -> tuple[str, Any]:
    """`year=2024` -> ("year", 2024): a value that is JSON is taken as such, else as a text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise typer.BadParameter(f"--meta wants KEY=VALUE, got {text!r}")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _print_hits(hits: Sequence[Hit]) -> None:
    """Rank, document, page, score, words; in columns as wide as needed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name, side in (("", "right"), ("document", "left"), ("page", "right"), ("score", "right")):
        table.add_column(name, justify=side, no_wrap=name != "document", overflow="fold")  # type: ignore[arg-type]
    table.add_column("words", overflow="fold")
    best: dict[str, float] = {}
    for match in (match for hit in hits for match in hit.words):
        best[match.word] = max(match.score, best.get(match.word, 0.0))
    for rank, hit in enumerate(hits, start=1):
        page = _place(hit)
        # fused scores are sums of a few 1 / (60 + rank)
        score = f"{hit.score:.2f}" if hits[0].score >= 0.1 else f"{hit.score:.4f}"
        name = str(hit.metadata["path"]) if page else hit.id
        matched = [match for match in hit.words if match.score > WORTH * best[match.word]]
        words = ", ".join(_match(match) for match in matched[:WORDS])
        table.add_row(str(rank), Text(one_line(name)), page, score, Text(one_line(words)))
    console = Console(highlight=False)
    if console.is_terminal:
        console.print(table)
        return
    console = Console(highlight=False, width=UNCUT)  # a hit stays a line for the next program
    with console.capture() as capture:
        console.print(table)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _place(hit: Hit) -> str:
    """The page, of a recording the time at which the part begins; "" where there is neither."""
    if hit.page is not None:
        return str(hit.page)
    return _clock(hit.metadata["start"]) if hit.metadata.get("kind") == "audio" else ""


def _match(match: Match) -> str:
    """A word, and where the page or when the recording says it: `charge (charging)`, `bell 1:07`."""
    word = _word(match.word, match.found)
    return word if match.seconds is None else f"{word} {_clock(match.seconds[0])}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _word(word: str, found: str) -> str:
    """The query's word, and the page's own where it is another: `charge (charging)`; both cut at SHOWN."""
    bare = " ".join(part.strip(AROUND) or part for part in found.split())
    same = not bare or word.casefold() in bare.casefold()
    asked = word if len(word) <= SHOWN else f"{word[: SHOWN - 1]}…"
    return asked if same else f"{asked} ({textwrap.shorten(bare, SHOWN, placeholder='…')[:SHOWN]})"


def _answer(
    collection: Collection,
    queries: Path,
    run: Path | None,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Answer a file of queries and write a TREC run; the file appears whole or not at all."""
    if run is None:
        if as_json:
            raise typer.BadParameter(
                "--json with --queries needs --run FILE, as stdout has the run"
            )
        for line in _run_lines(collection, queries, options):
            sys.stdout.write(line)
        return
    partial = run.with_name(f".{run.name}.{os.getpid()}")
    lines = 0
    ids = set()
    try:
        with partial.open("w", encoding="utf-8") as file:
            for line in _run_lines(collection, queries, options):
                file.write(line)
                lines += 1
                ids.add(line.split(" ", 1)[0])
        partial.replace(run)
    finally:
        partial.unlink(missing_ok=True)
    if as_json:
        print_json({"run": str(run), "queries": len(ids), "lines": lines})
    else:
        print(f"{len(ids)} queries answered, {lines} lines in {run}")


def _run_lines(collection: Collection, queries: Path, options: dict[str, Any]) -> Iterator[str]:
    """`qid Q0 docid rank score lateint`; blanks in ids, which the format cannot hold, become %20."""
    for batch in _batches(_read_queries(queries)):
        texts = [text for _, text in batch]
        found = collection.search_many(texts, **options)
        for (name, text), hits in zip(batch, found, strict=True):
            if not hits and not collection.model.reads(text):
                say(f"query {name}: the model reads no word in {text!r}")
            for rank, hit in enumerate(hits, start=1):
                yield f"{name} Q0 {trec_id(hit.id)} {rank} {hit.score:.6f} lateint\n"


def _read_queries(path: Path) -> Iterator[tuple[str, str]]:
    seen = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line.decode("utf-8-sig"))
                name, text = str(entry["id"]), entry["text"]
            except (ValueError, KeyError, TypeError) as error:
                fail(f'{path}, line {number}: wanted {{"id": ..., "text": ...}} ({error!r})')
            if not isinstance(text, str) or not text.strip():
                fail(f"{path}, line {number}: the text is empty")
            if not name or any(c.isspace() for c in name) or name in seen:
                fail(f"{path}, line {number}: id {name!r} is empty, has blanks or comes twice")
            seen.add(name)
            yield name, text


def _batches(queries: Iterator[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    for query in queries:
        batch.append(query)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
