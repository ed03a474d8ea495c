"""docs/PROTOCOL.md and the wire tests name each other: no test without its line, no line without a test."""

import json
import re
import sys
from pathlib import Path

WIRE = Path(__file__).resolve().parent
PAGE = WIRE.parents[1] / "docs" / "PROTOCOL.md"


def tests_named_by(page):
    """The last column of the conformance table, word by word."""
    table = page.split("## Conformance")[1].split("## Deliberate")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [set(re.findall(r"[a-z0-9_]+", row.rsplit("|", 2)[1])) for row in rows]


def main():
    page = PAGE.read_text(encoding="utf-8")
    vectors = sorted(WIRE.glob("golden*.jsonl"))
    known = {path.stem for path in [*vectors, *WIRE.glob("transcripts/*.txt")]}
    rows = tests_named_by(page)
    faults = [f"{name} is in no line of the table" for name in sorted(known - set().union(*rows))]
    for row in rows:
        if not row & (known | {"every", "all"}):
            faults.append(f"a line names no test that exists: {sorted(row)}")
        faults += [f"{name} does not exist" for name in sorted(row - known) if "golden_" in name]
    lines = [line for path in vectors for line in path.read_text(encoding="utf-8").splitlines()]
    if f", {len(lines)})" not in page:
        faults.append(f"there are {len(lines)} vectors, and the page says another number")
    for line in lines:
        if "midge" in (record := json.loads(line)) and "code point" not in record["midge"]["why"]:
            faults.append(f"a difference without its line: {record['midge']['why']}")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
