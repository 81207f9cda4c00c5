"""Make the documents under tests/fixtures: small PDFs, pictures and texts to index and to ask.

    pip install "lateint[fixtures]" && python scripts/make_fixtures.py [FOLDER]

Everything here was written for this project and is given away under CC0; people, places and
products are invented. The fonts are the standard PDF fonts, which need no embedding, and Aileron
(CC0), which comes inside Pillow. Dates are fixed, so the same versions of fpdf2 and Pillow write
the same bytes.

queries.jsonl holds questions with the documents that answer them.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
from datetime import datetime, timezone
from pathlib import Path

from fixture_texts import (
    BREAD,
    GULLS,
    INVOICE,
    LETTER,
    LIBRARY,
    MANUAL,
    NOTICE,
    ORCHARD,
    QUERIES,
)
from fpdf import FPDF, XPos, YPos
from fpdf.outline import OutlineSection
from PIL import Image, ImageDraw, ImageFilter, ImageFont

DATE = datetime(2026, 3, 2, 9, 0, tzinfo=timezone.utc)
NEXT_LINE = {"new_x": XPos.LMARGIN, "new_y": YPos.NEXT}


def document(
    title: str,
    *,
    orientation: str = "portrait",
    page: str | tuple[float, float] = "A4",
    margin: float = 20,
) -> FPDF:
    pdf = FPDF(orientation=orientation, format=page, unit="mm")
    pdf.set_title(title)
    pdf.set_creation_date(DATE)
    pdf.set_author("the lateint project (CC0)")
    pdf.set_margin(margin)
    return pdf


def aileron(size: float) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def embed_aileron(pdf: FPDF) -> None:
    """Aileron out of Pillow into the PDF, as a subset with a Unicode map."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "aileron.ttf"
        path.write_bytes(aileron(10).path.getvalue())
        pdf.add_font("aileron", fname=path)


def manual(path: Path) -> None:
    """Six pages with headings, numbered steps, a table and a printed table of contents."""
    pdf = document(MANUAL["title"], page=(148, 210), margin=16)
    pdf.set_auto_page_break(False)

    def contents(pdf: FPDF, outline: list[OutlineSection]) -> None:
        pdf.set_x(pdf.l_margin)
        pdf.set_font("helvetica", "B", 15)
        pdf.cell(0, 12, "Contents", **NEXT_LINE)
        pdf.set_font("helvetica", size=11)
        for section in outline:
            text = f"{section.name} "
            number = f" {section.page_number}"
            room = pdf.epw - pdf.get_string_width(text + number) - 4
            dots = "." * max(2, int(room / pdf.get_string_width(".")))
            pdf.cell(0, 8, text + dots + number, **NEXT_LINE)

    pdf.add_page()
    pdf.set_font("helvetica", "B", 26)
    pdf.ln(18)
    pdf.multi_cell(0, 12, MANUAL["title"], **NEXT_LINE)
    pdf.set_font("helvetica", size=12)
    pdf.ln(4)
    pdf.multi_cell(0, 6, MANUAL["subtitle"], **NEXT_LINE)
    pdf.ln(14)
    pdf.insert_toc_placeholder(contents, pages=1)  # the first section follows on its own page
    for number, (heading, paragraphs) in enumerate(MANUAL["sections"].items(), start=1):
        if number > 1:
            pdf.add_page()
        pdf.set_font("helvetica", "B", 17)
        pdf.start_section(f"{number} {heading}")
        pdf.cell(0, 14, f"{number}  {heading}", **NEXT_LINE)
        for paragraph in paragraphs:
            if isinstance(paragraph, list):
                pdf.set_font("helvetica", size=10)
                with pdf.table(col_widths=(18, 46, 82), line_height=5, text_align="LEFT") as table:
                    for row in paragraph:
                        table.row(row)
                pdf.ln(4)
                continue
            pdf.set_font("times", size=12)
            pdf.multi_cell(0, 6.2, paragraph, **NEXT_LINE)
            pdf.ln(3)
        pdf.set_y(-18)
        pdf.set_font("helvetica", "I", 9)
        pdf.cell(0, 6, f"Kestrel 4 operating manual, page {pdf.page_no()}", align="C")
    pdf.output(str(path))


def report(path: Path) -> None:
    """Four pages in two columns, like a paper, with a figure."""
    pdf = document(GULLS["title"], page=(170, 220), margin=15)
    for number, sections in enumerate(GULLS["pages"], start=1):
        pdf.add_page()
        pdf.set_font("times", "B", 18)
        for heading in sections:  # bookmarks; not possible inside columns
            pdf.start_section(heading)
        if number == 1:
            pdf.multi_cell(0, 8, GULLS["title"], align="C", **NEXT_LINE)
            pdf.set_font("times", "I", 11)
            pdf.cell(0, 12, GULLS["authors"], align="C", **NEXT_LINE)
        if number == 3:
            call_rates(pdf)
        with pdf.text_columns(
            ncols=2, gutter=8, text_align="J", line_height=1.25, balance=True
        ) as columns:
            for heading, paragraphs in sections.items():
                pdf.set_font("times", "B", 13)
                with columns.paragraph(top_margin=2, bottom_margin=1) as paragraph:
                    paragraph.write(heading)
                pdf.set_font("times", size=11.5)
                for text in paragraphs:
                    with columns.paragraph(bottom_margin=1.5) as paragraph:
                        paragraph.write(text)
    pdf.output(str(path))


def call_rates(pdf: FPDF) -> None:
    """A bar chart of calls by month over both columns."""
    pdf.set_font("helvetica", size=9)
    top, height = pdf.get_y(), 50
    for i, (week, calls) in enumerate(GULLS["figure"].items()):
        bar = calls * 0.36
        pdf.set_fill_color(70, 110, 160)
        pdf.rect(20 + 22 * i, top + height - bar, 15, bar, style="F")
        pdf.set_xy(16 + 22 * i, top + height + 1)
        pdf.cell(23, 5, week, align="C")
    pdf.set_xy(15, top + height + 8)
    pdf.multi_cell(0, 5, GULLS["caption"], **NEXT_LINE)
    pdf.ln(4)


def slides(path: Path) -> None:
    """Five coloured slides in an embedded font."""
    pdf = document(LIBRARY["title"], orientation="landscape", page=(142.875, 254))
    embed_aileron(pdf)
    pdf.set_auto_page_break(False)
    for number, (heading, lines) in enumerate(LIBRARY["slides"].items()):
        pdf.add_page()
        dark = number == 0
        pdf.set_fill_color(*((22, 48, 80) if dark else (250, 247, 240)))
        pdf.rect(0, 0, 254, 142.875, style="F")
        pdf.set_text_color(*((255, 255, 255) if dark else (22, 48, 80)))
        pdf.set_y(48 if dark else 16)
        pdf.set_font("aileron", size=30 if dark else 26)
        pdf.start_section(heading)
        pdf.cell(0, 16, heading, **NEXT_LINE)
        pdf.set_text_color(*((220, 226, 235) if dark else (40, 40, 40)))
        pdf.set_font("aileron", size=17)
        for line in lines:
            pdf.cell(0, 12, line if dark else f"-  {line}", **NEXT_LINE)
        if heading in LIBRARY["bars"]:
            for i, (label, value) in enumerate(LIBRARY["bars"][heading].items()):
                y = 84 + 13 * i
                pdf.set_fill_color(196, 98, 45)
                pdf.rect(60, y, value * 1.5, 9, style="F")
                pdf.set_xy(20, y)
                pdf.cell(38, 9, label)
                pdf.set_xy(62 + value * 1.5, y)
                pdf.cell(30, 9, f"{value} %")
    pdf.output(str(path))


def invoice(path: Path) -> None:
    """One page of names, numbers and a table."""
    pdf = document(INVOICE["title"])
    pdf.add_page()
    pdf.set_font("helvetica", "B", 20)
    pdf.start_section(INVOICE["title"])
    pdf.cell(0, 14, INVOICE["title"], **NEXT_LINE)
    pdf.set_font("helvetica", size=10.5)
    for block in INVOICE["blocks"]:
        pdf.multi_cell(90, 5.6, block, **NEXT_LINE)
        pdf.ln(5)
    with pdf.table(col_widths=(86, 22, 30, 30), line_height=7) as table:
        for row in INVOICE["table"]:
            table.row(row)
    pdf.ln(6)
    pdf.multi_cell(0, 5.6, INVOICE["footer"], **NEXT_LINE)
    pdf.output(str(path))


def scan(path: Path) -> None:
    """A letter as a scanner gives it: one grey picture, a little askew, with noise, no text."""
    width, height = 1000, 1414  # A4 at 121 dpi
    image = Image.new("L", (width, height), 244)
    draw = ImageDraw.Draw(image)
    y = 110
    for paragraph in LETTER:
        for line in wrap(paragraph, aileron(25), 780):
            draw.text((110, y), line, font=aileron(25), fill=38)
            y += 38
        y += 26
    image = image.rotate(0.7, resample=Image.Resampling.BICUBIC, fillcolor=244)
    noise = random.Random(7)
    speckle = Image.frombytes("L", (width // 2, height // 2), noise.randbytes(width * height // 4))
    speckle = speckle.resize((width, height)).filter(ImageFilter.GaussianBlur(0.8))
    image = Image.blend(image, speckle, 0.06)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=60)
    pdf = document("Scan0012")
    pdf.set_margin(0)
    pdf.add_page()
    pdf.image(jpeg, x=0, y=0, w=210, h=297)
    pdf.output(str(path))


def notice(path: Path) -> None:
    """A picture of a notice on a coloured board."""
    image = Image.new("RGB", (900, 640), (31, 94, 78))
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((30, 30, 870, 610), radius=24, fill=(252, 250, 243))
    draw.rectangle((30, 120, 870, 128), fill=(200, 60, 40))
    y = 58
    for line, size in NOTICE:
        draw.text((70, y), line, font=aileron(size), fill=(25, 25, 25))
        y += round(size * 1.75)
    image.quantize(64).save(path, optimize=True)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return lines


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pictures").mkdir(exist_ok=True)
    manual(folder / "kestrel-manual.pdf")
    report(folder / "gull-calls.pdf")
    slides(folder / "harbour-library.pdf")
    invoice(folder / "invoice-0417.pdf")
    scan(folder / "letter-scan.pdf")
    notice(folder / "pictures" / "notice.png")
    (folder / "bread.txt").write_text(BREAD, encoding="utf-8")
    (folder / "orchard.md").write_text(ORCHARD, encoding="utf-8")
    lines = [
        json.dumps({"id": f"q{i}", "text": text, "relevant": ids})
        for i, (text, ids) in enumerate(QUERIES, start=1)
    ]
    (folder / "queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "LICENSE").write_text(
        "The documents in this folder were made by scripts/make_fixtures.py and are dedicated to\n"
        "the public domain under CC0 1.0 (https://creativecommons.org/publicdomain/zero/1.0/).\n"
        "People, places and products in them are invented.\n",
        encoding="utf-8",
    )


if __name__ == "__main__":
    default = Path(__file__).resolve().parent.parent / "tests" / "fixtures"
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else default)
