#!/usr/bin/env python3
"""Print, as a table in Markdown, every aim of some comparisons and what came of it.

    bench/aims.py FILE...      files that midge-bench compare --json wrote, in the order of the rows

Figures are medians over the rounds, ratios and their intervals those of midge-bench. A/A is the first server
over itself: what the method takes for a difference where there is none.
"""

import json
import sys

UNITS = {  # metric: (unit, how many of the file's that is, decimals); others are times
    "rate": ("/s", 1, 0), "setup": ("/s", 1, 0), "rss": (" MiB", 1 << 20, 1), "idle": (" ms/s", 0.001, 3),
    "each": (" bytes", 1, 0), "load-each": (" bytes", 1, 0),
}


def ratio_text(ratio):
    if ratio is None or ratio["middle"] is None:
        return ""
    if ratio["low"] is None:
        return f"{ratio['middle']:.2f}"
    return f"{ratio['middle']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})"


class Comparison:
    """One file."""

    def __init__(self, file):
        self.file = file
        self.labels = {subject["key"]: subject["label"] for subject in file["subjects"]}

    def figure(self, key, metric):
        range_ = self.file["summary"].get(key, {}).get(metric)
        if not range_:
            return ""
        unit, scale, decimals = UNITS.get(metric, (" µs", 1000, 2 if range_["median"] < 10000 else 1))
        return f"{range_['median'] / scale:,.{decimals}f}{unit}"

    def ratio(self, subject, base, metric):
        return next((one for one in self.file["ratios"]
                     if (one["subject"], one["base"], one["metric"]) == (subject, base, metric)), None)

    def result(self, aim):
        if aim["is_failed"]:
            return "unknown: runs failed"
        return {True: "met", False: "**missed**", None: "unknown"}[aim["is_met"]]

    def row(self, aim):
        metric, base = aim["metric"], aim["base"]
        unit, scale, decimals = UNITS.get(metric, (" µs", 1000, 2))
        sign = "≥" if aim["is_least"] else "≤"
        limit = f"{aim['limit'] / scale:,.{decimals}f}{unit}"
        if base:
            limit = f"{aim['limit']:g} × {self.labels[base]}"
        against = base or "b"
        other = self.figure(against, metric)
        return [self.file["title"], metric, self.figure("a", metric),
                f"{other} ({self.labels[against]})" if other else "",
                ratio_text(self.ratio("a", against, metric)), ratio_text(self.ratio("a-again", "a", metric)),
                f"{sign} {limit}", self.result(aim)]


def table(files):
    heads = ["measurement", "metric", "figure", "compared with", "ratio (95 %)", "A/A (95 %)", "aim",
             "result"]
    lines = ["| " + " | ".join(heads) + " |", "|---|---|--:|--:|--:|--:|---|---|"]
    for file in files:
        if file["kind"] == "compare":
            comparison = Comparison(file)
            lines += ["| " + " | ".join(comparison.row(aim)) + " |" for aim in file["aims"]]
    return "\n".join(lines)


def main(paths):
    files = []
    for path in paths:
        with open(path, encoding="utf-8") as text:
            files.append(json.load(text))
    print(table(files))


if __name__ == "__main__":
    main(sys.argv[1:])
