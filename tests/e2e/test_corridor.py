"""From files to hits with the model that ships, and a task whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import ir_measures
import pytest
from ir_measures import Qrel, nDCG
from make_pdf import (
    write_broken,
    write_encrypted,
    write_huge_page,
    write_pdf,
    write_without_pages,
)
from PIL import Image, ImageDraw, ImageFont

import lateint
from lateint import cli
from lateint.cli import trec_id
from lateint.model import LateInteractionModel
from modalities import pdf

PAGES = {
    "Feeding the sourdough starter": "Rye flour and warm water\ntwice a day, in a glass jar.",
    "Mounting the mast": "Three bolts hold the foot plate.\nTighten them crosswise.",
    "Replacing the battery": "Open the lid, take out the old cell\nand clean both contacts.",
    "Fault codes of the logger": "E17 means that the clock was lost.\nE21 means a full card.",
    "Varnish for oak planks": "Thin the first coat by half.\nSand between all coats.",
    "Pruning young apple trees": "Cut above a bud that looks outward,\nin late winter.",
    "Opening hours of the library": "Sundays from noon to five.\nClosed in August.",
    "Counting gulls at dusk": "Two observers stand on the cliff.\nInfrared cameras help.",
    "Invoices and reminders": "Payment is due within thirty days\nof the date above.",
    "Swimming lessons for children": "Bring a towel and a cap.\nParents wait outside.",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages in three PDFs, with headings of their own and an outline."""
    folder = tmp_path_factory.mktemp("task")
    titles = list(PAGES)
    for i, part in enumerate((titles[:4], titles[4:7], titles[7:])):
        pages = [f"{title}\n\n{PAGES[title]}" for title in part]
        outline = [(title, n) for n, title in enumerate(part, start=1)]
        write_pdf(folder / f"part {i}.pdf", pages, size=(300, 200), outline=outline)
    return folder


def test_a_pdf_to_hits_layer_by_layer(
    tmp_path: Path, folder: Path, shipped: LateInteractionModel
) -> None:
    """raw -> TokenGrid -> Ragged -> index -> hits, without a collection."""
    pages = list(pdf.pages(folder / "part 0.pdf", dpi=100))
    grid = shipped.grid([page.image for page in pages], "document", modality="page")
    assert len(grid) == 4 and grid.dim == 128 and grid.boxes is not None
    tokens = shipped.encode_documents([page.image for page in pages], modality="page")
    assert [len(rows) for rows in tokens] == grid.mask.sum(1).tolist()
    with lateint.Index.create(tmp_path / "i.index", dim=tokens.dim) as index:
        index.add([f"p{page.number}" for page in pages], tokens)
    with lateint.Index.open(tmp_path / "i.index") as index:
        queries = shipped.encode_queries(["replacing a battery", "E17", "bolts of the foot plate"])
        found = index.search(queries, k=4)
    assert [row[0].id for row in found] == ["p3", "p4", "p2"]
    for row in found:
        assert [hit.score for hit in row] == sorted((hit.score for hit in row), reverse=True)


def test_every_page_is_the_best_for_its_own_heading(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task with a known answer, through files and the command line: nDCG@10 is exactly 1."""
    monkeypatch.chdir(tmp_path)
    qrels, lines = [], []
    for path in sorted(folder.glob("*.pdf")):
        for entry in pdf.outline(path):
            number = f"q{len(lines)}"
            lines.append(json.dumps({"id": number, "text": entry.title}))
            qrels.append(Qrel(number, trec_id(f"{path.name}#page={entry.page}"), 1))
    assert len(lines) == len(PAGES)
    Path("q.jsonl").write_text("\n".join(lines))
    for command in (
        ["index", str(folder)],
        ["search", "--queries", "q.jsonl", "--run", "out.trec"],
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(command)
        assert not end.value.code
    run = list(ir_measures.read_trec_run("out.trec"))
    assert ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10] == 1.0
    wrong = [Qrel(q.query_id, qrels[i - 1].doc_id, 1) for i, q in enumerate(qrels)]
    assert ir_measures.calc_aggregate([nDCG @ 10], wrong, run)[nDCG @ 10] < 0.9  # it can fail


def test_a_folder_with_bad_files_among_good_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mixed"
    folder.mkdir()
    bad = {
        write_broken(folder / "a-broken.pdf"): "not a PDF, or too damaged to open",
        write_encrypted(folder / "b-locked.pdf"): "encrypted: save a copy without a password",
        write_without_pages(folder / "c-no-pages.pdf"): "it has no pages",
        write_huge_page(folder / "d-huge.pdf"): "page 1: 20000 x 20000 points",
    }
    picture = Image.effect_noise((300, 300), 90)
    picture.save(folder / "e-cut.png")
    whole = (folder / "e-cut.png").read_bytes()
    (folder / "e-cut.png").write_bytes(whole[: len(whole) // 2])
    bad[folder / "e-cut.png"] = "truncated or damaged"
    write_pdf(folder / "f-good.pdf", ["Replacing the battery", "Mounting the mast"])
    write_pdf(folder / "g-half.pdf", ["The orchard", "The meadow"])
    half = (folder / "g-half.pdf").read_bytes()
    vast = b"/MediaBox[0 0 9999 9999]"  # one page of two is too large
    (folder / "g-half.pdf").write_bytes(half.replace(b"/MediaBox [0 0 200 300] ", vast, 1))
    bad[folder / "g-half.pdf"] = "page 1: "
    note = Image.new("L", (400, 100), "white")
    font = ImageFont.load_default(18)
    ImageDraw.Draw(note).text((20, 30), "swimming pool closed", "black", font)
    note.save(folder / "h-note.png")
    (folder / "i-latin.txt").write_bytes("Grüße aus der Bäckerei".encode("cp1252"))

    def lateint(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([*arguments, "--collection", str(tmp_path / "c")])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    status, out, err = lateint("index", str(folder))
    assert status == 0  # what is good can be found, so the run did its work
    said = dict(line.removeprefix("not indexed: ").split(": ", 1) for line in err.splitlines())
    assert {Path(name) for name in said} == set(bad)
    assert all(reason in said[str(path)] for path, reason in bad.items())
    assert "6 problems" in out
    wanted = {
        "replace the battery": "f-good.pdf#page=1",
        "mast": "f-good.pdf#page=2",
        "meadow": "g-half.pdf#page=2",
        "pool closed": "h-note.png",
        "Bäckerei": "i-latin.txt",
    }
    for query, document in wanted.items():
        hits = json.loads(lateint("search", query, "--json")[1])["hits"]
        assert hits[0]["id"] == document and len(hits) == len(wanted)
    told = json.loads(lateint("info", "--json")[1])["problems"]
    assert {Path(problem["path"]) for problem in told} == set(bad)
    alone = [str(path) for path in bad if path.name != "g-half.pdf"]
    assert lateint("add", *alone[:2])[0] == 1  # nothing of it could be read
