"""Pass ctest's output through and, just before its summary, say why each skipped test was skipped.

    ctest ... | show_skips.py BUILD_DIR

ctest names the skipped tests in its summary but not their reasons. A test that skips prints
`skipped: <reason>` as its last line; ctest keeps that in its log, and it is read from there.
"""

import re
import sys
from pathlib import Path

SUMMARY = re.compile(r"^\d+% tests passed")
SKIPPED_TEST = re.compile(r"^\s*\d+/\d+ Test\s+#\d+: (\S+) \.*\*\*\*Skipped")
LOGGED_TEST = re.compile(r"^\d+/\d+ Test: (\S+)$")
LOGGED_REASON = re.compile(r"^skipped: (.*)$")


def read_reasons(build_dir):
    """Test name -> reason, from the log; while ctest runs, the log has its temporary name."""
    logs = [log for log in (build_dir / "Testing" / "Temporary").glob("LastTest.log*") if log.is_file()]
    reasons = {}
    if not logs:
        return reasons
    newest = max(logs, key=lambda log: log.stat().st_mtime)
    name = None
    for line in newest.read_text(encoding="utf-8", errors="replace").splitlines():
        if match := LOGGED_TEST.match(line):
            name = match.group(1)
        elif name and (match := LOGGED_REASON.match(line)):
            reasons[name] = match.group(1)
    return reasons


def show_reasons(build_dir, skipped):
    reasons = read_reasons(build_dir)
    print("Skipped:")
    for name in skipped:
        print(f"  {name}: {reasons.get(name, 'no reason given')}")
    print()


def main(build_dir):
    skipped = []
    for line in sys.stdin:
        if match := SKIPPED_TEST.match(line):
            skipped.append(match.group(1))
        elif SUMMARY.match(line) and skipped:
            show_reasons(build_dir, skipped)
        sys.stdout.write(line)
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
