"""Small PDFs for tests, written byte by byte: good ones, and ones that no reader likes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

RGB = {
    "red": "1 0 0",
    "green": "0 1 0",
    "blue": "0 0 1",
    "yellow": "1 1 0",
    "violet": "0.63 0 1",
    "orange": "1 0.55 0",
}
SIZE = (200, 300)  # points


def write_pdf(
    path: Path,
    pages: Sequence[str],
    *,
    size: tuple[float, float] = SIZE,
    outline: Sequence[tuple[str, int]] = (),
    trailer: str = "",
) -> Path:
    """A PDF with one page for each entry: its words, as a text layer; the first word, where it is
    a colour, also colours the page's lower half. outline: (title, page from 1)."""
    first = 4  # objects 1..3: catalog, page tree, font
    kids = [first + 2 * i for i in range(len(pages))]
    marks = first + 2 * len(pages)
    entries = [marks + 1 + i for i in range(len(outline))]
    catalog = (
        "<< /Type /Catalog /Pages 2 0 R" + (f" /Outlines {marks} 0 R" if outline else "") + " >>"
    )
    tree = f"<< /Type /Pages /Kids [{' '.join(f'{k} 0 R' for k in kids)}] /Count {len(kids)} >>"
    objects = [catalog, tree, "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    for kid, words in zip(kids, pages, strict=True):
        stream = _drawing(words, size)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {size[0]} {size[1]}] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {kid + 1} 0 R >>"
        )
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
    if outline:
        ends = f"/First {entries[0]} 0 R /Last {entries[-1]} 0 R"
        objects.append(f"<< /Type /Outlines {ends} /Count {len(entries)} >>")
        for i, (title, page) in enumerate(outline):
            after = f" /Next {entries[i + 1]} 0 R" if i + 1 < len(entries) else ""
            place = f"/Dest [{kids[page - 1]} 0 R /Fit]"
            objects.append(f"<< /Title ({title}) /Parent {marks} 0 R {place}{after} >>")
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size_of = len(objects) + 1
    body += f"xref\n0 {size_of}\n0000000000 65535 f \n{table}"
    start = body.index("xref\n0 ")
    body += f"trailer\n<< /Size {size_of} /Root 1 0 R {trailer} >>\nstartxref\n{start}\n%%EOF\n"
    path.write_bytes(body.encode("latin-1"))
    return path


def _drawing(words: str, size: tuple[float, float]) -> str:
    colour = RGB.get(words.split(" ", 1)[0])
    band = f"{colour} rg 0 0 {size[0]} {size[1] / 2} re f 0 g " if colour else ""
    lines, height = words.split("\n"), size[1] - 40
    text = " ".join(f"({line}) Tj 0 -20 Td" for line in lines)
    return f"{band}BT /F1 12 Tf 20 {height} Td {text} ET"


def write_encrypted(path: Path) -> Path:
    """A PDF that opens only with a password (which nobody knows)."""
    secret = "5a" * 32
    encryption = f"<< /Filter /Standard /V 1 /R 2 /O <{secret}> /U <{secret}> /P -4 >>"
    return write_pdf(path, ["secret"], trailer=f"/Encrypt {encryption} /ID [<00> <00>]")


def write_broken(path: Path) -> Path:
    """What is left of a PDF after a bad download."""
    good = write_pdf(path, ["red page"]).read_bytes()
    path.write_bytes(good[:9] + good[200:260])
    return path


def write_without_pages(path: Path) -> Path:
    return write_pdf(path, [])


def write_huge_page(path: Path) -> Path:
    """One page of 7 by 7 metres."""
    return write_pdf(path, ["vast"], size=(20_000, 20_000))
