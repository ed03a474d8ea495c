"""report.html: what is embedded, that nothing outside is needed, that no text escapes, and that it draws.

MIDGE_REPORT is the program (report_main.c). With CHROMIUM or a chromium in PATH the page is loaded too.
"""

import copy
import functools
import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import report_fixture as fixture  # noqa: E402

REPORT = os.environ["MIDGE_REPORT"]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SAMPLES = 1000
BREAKING = "</script><script>document.title = 'broken'</script><!-- <img src=x onerror=alert(1)> & \u2028"


class Page(html.parser.HTMLParser):
    """Elements as a browser sees them: attributes, and the text of each script."""

    def __init__(self, text):
        super().__init__()
        self.attributes, self.scripts, self.script, self.counts = [], [], None, {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, *attribute) for attribute in attrs]
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag == "script":
            self.script = len(self.scripts)
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        if tag == "script":
            self.script = None

    def handle_data(self, data):
        if self.script is not None:
            attributes, text = self.scripts[self.script]
            self.scripts[self.script] = (attributes, text + data)

    def data(self):
        """What is embedded."""
        texts = [text for attributes, text in self.scripts if attributes.get("type") == "application/json"]
        assert len(texts) == 1, len(texts)
        return json.loads(texts[0])


def stripped(run):
    """A run without buckets."""
    made = dict(run)
    for part in ("latency", "service"):
        if made[part]:
            made[part] = {key: value for key, value in made[part].items() if key != "buckets"}
    return made


def merged(file, subject, part):
    """The histograms of all rounds that did not fail, added up."""
    histograms = [one[subject][part] for one in file["rounds"] if not one[subject]["failed"]]
    histograms = [histogram for histogram in histograms if histogram]
    if not histograms:
        return None
    buckets = {}
    for histogram in histograms:
        for index, count in histogram["buckets"]:
            buckets[index] = buckets.get(index, 0) + count
    sums = {key: sum(one[key] for one in histograms) for key in ("count", "sum_ns", "beyond_count")}
    return {**sums, "mean_ns": sums["sum_ns"] / sums["count"], "rounds": len(histograms),
            "min_ns": min(one["min_ns"] for one in histograms),
            "max_ns": max(one["max_ns"] for one in histograms), "buckets": sorted(map(list, buckets.items()))}


def embedded(file):
    """What a report has to hold of a file."""
    made = dict(file)
    if file["kind"] == "compare":
        made["rounds"] = [{key: stripped(run) for key, run in one.items()} for one in file["rounds"]]
        keys = [subject["key"] for subject in file["subjects"]]
        made["merged"] = {key: {part: merged(file, key, part) for part in ("latency", "service")}
                          for key in keys}
    elif file["kind"] == "curve":
        made["runs"] = [stripped(run) for run in file["runs"]]
    elif file["kind"] == "suite":
        made["sections"] = [{**one, "file": embedded(one["file"])} for one in file["sections"]]
    return made


class Case(unittest.TestCase):
    """Files in a directory of their own, and the program run on them."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = directory.name

    def path(self, name):
        return os.path.join(self.directory, name)

    def write(self, *files):
        paths = []
        for index, file in enumerate(files):
            paths.append(self.path(f"{index}.json"))
            with open(paths[-1], "w", encoding="utf-8") as out:
                out.write(file if isinstance(file, str) else json.dumps(file, ensure_ascii=False))
        return paths

    def run_report(self, paths, *more):
        return subprocess.run([REPORT, *paths, *more], capture_output=True, text=True, timeout=60,
                              check=False)

    def report(self, *files):
        """Path of a report that must succeed."""
        done = self.run_report(self.write(*files), "-o", self.path("report.html"))
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        return self.path("report.html")

    def page(self, *files):
        with open(self.report(*files), encoding="utf-8") as file:
            return file.read()


@functools.cache
def all_kinds():
    return [fixture.single(SAMPLES), fixture.curve(SAMPLES), fixture.curve(SAMPLES, "b", 4),
            fixture.compare(SAMPLES, rounds=3), fixture.suite(SAMPLES)]


class Embedding(Case):
    def test_rounds_are_added_up_and_every_other_figure_is_kept(self):
        files = all_kinds()
        data = Page(self.page(*files)).data()
        self.assertEqual(data["midge_report"], 1)
        self.assertEqual(len(data["files"]), len(files))
        for made, file in zip(data["files"], files):
            self.assertEqual(made, embedded(file), file["kind"])

    def test_failed_runs_give_no_samples(self):
        def change(index, key, one):
            return {**one, "failed": "why"} if key == "b" and index < 2 else one

        file = fixture.compare(SAMPLES, rounds=3, change_cb=change)
        data = Page(self.page(file)).data()["files"][0]
        self.assertEqual(data["merged"]["b"]["latency"]["rounds"], 1)
        self.assertEqual(data["merged"]["b"]["latency"]["count"], SAMPLES)
        self.assertEqual(data["merged"]["a"]["latency"]["count"], 3 * SAMPLES)

    def test_files_in_memory_give_the_same_page(self):
        file = fixture.single(SAMPLES)
        done = self.run_report(["--parsed", *self.write(file)])
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(done.stdout, self.page(file))

    def test_a_comparison_of_many_samples_stays_small(self):
        self.assertLess(len(self.page(fixture.compare(SAMPLES, rate=50_000))), 1 << 20)


class Safety(Case):
    def test_nothing_outside_is_referred_to(self):
        text = self.page(*all_kinds())
        self.assertNotRegex(text, r"https?://|@import|url\(")
        for tag, name, value in Page(text).attributes:
            self.assertNotIn(name, ("src", "srcset", "href", "action", "data", "poster"), tag)
        targets = re.findall(r"\b(?:src|href)\s*[=:]\s*[\"'`]*(.)", text)
        self.assertEqual(set(targets), {"#"})

    def hostile(self):
        file = fixture.compare(SAMPLES, rounds=2)
        file["subjects"][0]["label"] = BREAKING
        file["command_line"] = file["environment"] = BREAKING
        file["environment"] = {**fixture.ENVIRONMENT, BREAKING: BREAKING}
        file["rounds"][1]["b"]["failed"] = BREAKING
        return file

    def test_no_text_ends_the_block_of_data(self):
        text = self.page(self.hostile())
        page = Page(text)
        self.assertEqual(page.counts["script"], Page(self.page(fixture.single(SAMPLES))).counts["script"])
        self.assertNotIn("img", page.counts)
        self.assertEqual(page.data()["files"][0]["subjects"][0]["label"], BREAKING)

    def test_template_wants_data_once(self):
        path = os.path.join(os.path.dirname(fixture.__file__), "..", "..", "bench", "suite", "report.html")
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read().count("MIDGE_REPORT_DATA"), 1)


class Errors(Case):
    """What is no file of midge-bench is said to be, by name and place, and no report is written."""

    def expect(self, file, *words):
        paths = self.write(file)
        done = self.run_report(paths, "-o", self.path("report.html"))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertFalse(os.path.exists(self.path("report.html")))
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        for word in ("midge-bench: report: ", paths[0], *words):
            self.assertIn(word, done.stderr)

    def test_broken_json(self):
        self.expect('{"midge_bench": 1,\n "kind": ', "no JSON", "line 2")
        self.expect("", "no JSON")

    def test_other_json(self):
        self.expect([], "no object")
        self.expect({"kind": "run"}, '"midge_bench" is not 1')
        self.expect({"midge_bench": 1}, '"kind" is missing')

    def test_unknown_kind(self):
        self.expect({"midge_bench": 1, "kind": "picture"}, 'kind "picture" is not known', "compare")

    def test_suite_within_a_suite(self):
        inner = {"kind": "suite", "sections": []}
        self.expect({"midge_bench": 1, "kind": "suite", "sections": [{"title": "x", "file": inner}]},
                    "sections[0]", 'kind "suite"')

    def test_missing_parts(self):
        self.expect({"midge_bench": 1, "kind": "run"}, '"runs" is missing')
        self.expect({"midge_bench": 1, "kind": "curve", "runs": [1]}, "runs[0]", "no object")
        self.expect({"midge_bench": 1, "kind": "compare", "rounds": [{}]}, '"subjects" is missing')

    def test_broken_histograms(self):
        good = fixture.single(SAMPLES)
        for broken in (5, [[1]], [[1, 2, 3]], [[-1, 2]], [[1, -2]], [[2048 + 31 * 1024, 1]], [["1", 2]]):
            file = copy.deepcopy(good)
            file["runs"][0]["service"]["buckets"] = broken
            self.expect(file, "runs[0]", '"buckets"')
        compared = fixture.compare(SAMPLES, rounds=2)
        compared["rounds"][1]["a-again"]["latency"]["buckets"] = [[0, 1 << 62], [0, 1 << 62]]
        self.expect(compared, "rounds[1].a-again.latency", '"buckets"')
        compared["rounds"][1]["a-again"]["latency"] = {"buckets": []}
        self.expect(compared, "rounds[1].a-again.latency", '"count"')

    def test_missing_file(self):
        done = self.run_report([self.path("none.json")], "-o", self.path("report.html"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("none.json: No such file", done.stderr)

    def test_old_report_outlives_a_bad_file(self):
        path = self.report(fixture.single(SAMPLES))
        with open(path, encoding="utf-8") as file:
            before = file.read()
        done = self.run_report(self.write({"midge_bench": 1, "kind": "x"}), "-o", path)
        self.assertEqual(done.returncode, 1)
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), before)

    def test_in_memory_files_are_counted(self):
        done = self.run_report(["--parsed", *self.write(fixture.single(SAMPLES), {"midge_bench": 1})])
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("file 2", done.stderr)


@unittest.skipUnless(CHROMIUM, "no chromium")
class Drawing(Case):
    """The page in a browser without a window."""

    def dom(self, *files):
        path = self.report(*files)
        done = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,1000",
             f"--user-data-dir={self.path('profile')}", "--virtual-time-budget=2000", "--dump-dom",
             f"file://{path}"], capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "HOME": self.directory})  # fmt: skip
        root = re.search(r"<html[^>]*>", done.stdout)
        self.assertTrue(root, done.stderr[-2000:])
        self.assertNotIn("data-error", root.group(0))
        self.plots = int(re.search(r'data-ready="(\d+)"', root.group(0)).group(1))
        return re.sub(r'<script type="application/json".*?</script>', "", done.stdout, flags=re.DOTALL)

    def text_of(self, dom):
        body = re.sub(r"<(script|style)\b.*?</\1>", "", dom, flags=re.DOTALL)
        return html.unescape(re.sub(r"<[^>]+>", "", body))

    def test_suite_has_plots_and_tables(self):
        dom = self.dom(all_kinds()[-1])
        self.assertEqual(self.plots, 4)  # two comparisons with latencies, two curves in one, one run
        self.assertEqual(dom.count('role="img"'), 4)
        named = r'<svg[^>]*role="img"[^>]*><title [^>]*>[^<]+</title><desc [^>]*>[^<]+<'
        self.assertEqual(len(re.findall(named, dom)), 4)
        for table in re.findall(r"<table.*?</table>", dom, flags=re.DOTALL):
            self.assertIn("<th scope=", table)
            self.assertIn("<tbody", table)
        for heading in ("Ratios", "Figures", "Figures of this scenario", "Counts", "Noise of the machine",
                        "The machine", "How to repeat it"):
            self.assertIn(f">{heading}</h", dom)
        text = self.text_of(dom)
        self.assertIn("longest gapµs", text)
        self.assertIn("midge-servermidge-server 0.1.0midge-server", text)  # label, version, command
        self.assertNotRegex(text, r"\b(NaN|undefined|null|Infinity|\[object)\b")

    def test_summary_says_what_the_ratios_say(self):
        file = fixture.compare(SAMPLES, rounds=2)
        for one in file["ratios"]:
            if one["is_primary"] and (one["subject"], one["base"]) == ("a", "b"):
                one.update(middle=0.81, low=0.80, high=0.82, verdict="less")
            elif one["is_primary"] and (one["subject"], one["base"]) == ("c", "b"):
                one.update(middle=0.99, low=0.97, high=1.02, verdict="no difference")
        text = self.text_of(self.dom(file))
        self.assertIn("midge-server’s p50 is 0.81 (0.80–0.82) × nats-server’s.", text)
        self.assertIn("midge-server, 2 shards’ p50 and nats-server’s: no difference shown, "
                      "0.99 (0.97–1.02) ×.", text)

    def test_too_few_rounds_are_said_to_be(self):
        text = self.text_of(self.dom(fixture.spinning(SAMPLES)))
        self.assertIn("unknown, 5 rounds cannot tell", text)
        self.assertIn("server beside itself showed a difference", text)
        self.assertIn("server 1.98 cores, load 1.99 cores", text)

    def test_failed_runs_and_noise_are_alarms(self):
        dom = self.dom(fixture.with_failures(SAMPLES))
        alarms = " ".join(re.findall(r'<div class="alarm ">.*?</div>', dom, flags=re.DOTALL))
        self.assertIn("nats-server failed in 2 of 10 runs: 3 replies were lost.", alarms)
        self.assertIn("failed in 10 of 10 runs", alarms)
        self.assertIn("The machine was not quiet", alarms)
        self.assertIn("2 of 10 failed", self.text_of(dom))

    def test_noise_is_a_share_of_the_cpus_that_measured(self):
        file = fixture.compare(SAMPLES, rounds=2)
        for one in file["rounds"]:
            for run in one.values():
                elapsed = run["foreign"]["elapsed_ns"]
                run["foreign"].update(here_ns=elapsed // 10, elsewhere_ns=elapsed, steal_ns=0, cpu_count=4)
        self.assertNotIn("The machine was not quiet", self.text_of(self.dom(file)))
        for one in file["rounds"]:
            for run in one.values():
                run["foreign"]["cpu_count"] = 1
        self.assertIn("The machine was not quiet", self.text_of(self.dom(file)))

    def test_ratios_say_which_rounds_they_lack(self):
        file = fixture.compare(SAMPLES, rounds=2)
        file["is_interrupted"] = True
        for one in file["ratios"]:
            one.update(rounds=6, round_count=10, failed_rounds=4, verdict="unknown", middle=0.81, low=None,
                       high=None)
        text = self.text_of(self.dom(file))
        self.assertIn("no verdict, since runs failed (middle 0.81 in 6 of 10 rounds)", text)
        self.assertIn("This is what there was until then", text)

    def test_aims_have_units(self):
        file = fixture.compare(SAMPLES, rounds=2)
        aim = {"is_least": False, "base": None, "low": None, "high": None, "is_met": True}
        file["aims"] = [{**aim, "metric": "p50", "limit": 30000, "value": 25000},
                        {**aim, "metric": "each", "limit": 200, "value": 180, "is_failed": True}]
        text = self.text_of(self.dom(file))
        self.assertIn("Aim: p50 at most 30.00 µs: met, 25.00 µs", text)
        self.assertIn("Aim: each at most 200 bytes: unknown, since runs failed, 180 bytes", text)

    def test_text_stays_text(self):
        dom = self.dom(Safety.hostile(self))
        self.assertNotIn("<img", dom)
        self.assertNotIn("broken</title>", dom)
        self.assertIn("document.title = 'broken'", self.text_of(dom))

    def test_run_that_failed_and_nothing_else(self):
        file = fixture.single(SAMPLES)
        file["runs"][0] = {**fixture.failed(file["runs"][0], "no server"), "server": None, "foreign": None,
                           "command": None}
        text = self.text_of(self.dom(file))
        self.assertIn("failed: no server.", text)
        self.assertEqual(self.plots, 0)


if __name__ == "__main__":
    unittest.main()
