"""lateint-mini on the development splits: pages, languages, pictures, speech, and its rate.

    python scripts/bench_mini.py --data DATA [--only pages,languages,...] [--record]

Each section is a module `mini_<section>.py` with `measure(data) -> dict`, beside what a user would do
instead; a section's docstring says what is asked of what. Every section is one JSON line in
scripts/results/bench_mini.jsonl. DATA: what scripts/get_data.sh has fetched; what is read or
recognised once is kept below DATA.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path

import torch
from results import record

SECTIONS = ("pages", "languages", "pictures", "speech", "mixed", "rate")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", help=f"some of {', '.join(SECTIONS)}; default all")
    parser.add_argument("--record", action="store_true", help="append to scripts/results/")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    chosen = args.only.split(",") if args.only else SECTIONS
    unknown = set(chosen) - set(SECTIONS)
    if unknown:
        parser.error(f"no section {', '.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    torch.set_num_threads(args.threads)
    for section in chosen:
        facts = import_module(f"mini_{section}").measure(args.data)
        print(section, json.dumps(facts, indent=1, ensure_ascii=False), flush=True)
        if args.record:
            record("bench_mini", section=section, **facts)


if __name__ == "__main__":
    main()
