"""The loads through client libraries: none believes what a server says, and all of it can be measured.

Method: the fake broker, right in all but one point, on TCP, as nats.c knows nothing else; then one short
round of bench/client.py against the real one.
"""

import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
import client  # noqa: E402
from fake_broker import FakeBroker, close_now, swap_last_digit  # noqa: E402
from measure import clients, stats  # noqa: E402

BUILD = os.environ["MIDGE_BUILD"]
LIBRARIES = [name for name in ("raw", "libmidge", "natsc")
             if os.path.exists(os.path.join(BUILD, f"midge-load-{name}"))]


class Load(unittest.TestCase):
    """Each test runs once for each library."""

    def run_load(self, library, mode, fault, arguments):
        with tempfile.TemporaryDirectory() as directory:
            broker = FakeBroker(directory, fault, is_tcp=True)
            try:
                return subprocess.run(
                    [os.path.join(BUILD, f"midge-load-{library}"), mode, "--url", broker.url, "--timeout-ms",
                     "500", "--json", *arguments], capture_output=True, text=True, timeout=60, check=False)
            finally:
                broker.close()

    def each(self, mode, check, fault=None, but=(), more=()):
        """Run a load through each library but some, and check what came of it."""
        arguments = {
            "rtt": ["--count", "50", "--warmup", "5", "--size", "32"],
            "req": ["--count", "50", "--warmup", "5", "--size", "32", "--in-flight", "4"],
            "sub": ["--count", "50", "--warmup", "5", "--size", "32"],
            "mem": ["--count", "10", "--clients", "4"],
        }
        for library in LIBRARIES:
            if library not in but:
                with self.subTest(library=library, mode=mode):
                    check(self.run_load(library, mode, fault, [*arguments[mode], *more]))

    def assert_finds(self, done, text="midge-load: "):
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn(text, done.stderr)
        self.assertEqual(done.stdout, "", "a failed run must not report figures")

    def assert_finds_wrong_reply(self, done):
        self.assert_finds(done, "wrong reply")

    def test_right_server_gives_figures(self):
        keys = {"rtt": "max_ns", "req": "elapsed_ns", "sub": "elapsed_ns", "mem": "resident_each"}

        def check(done):
            self.assertEqual(done.returncode, 0, done.stderr)
            report = json.loads(done.stdout)
            self.assertEqual(report["errors"], 0)
            self.assertGreaterEqual(report[keys[report["mode"]]], 0)

        for mode in keys:
            self.each(mode, check)

    def test_reply_to_another_request_is_found(self):
        for mode in ("rtt", "req", "mem"):
            self.each(mode, self.assert_finds_wrong_reply, lambda _, frame: swap_last_digit(frame))

    def test_wrong_byte_beyond_the_number_is_found(self):
        for mode in ("rtt", "req"):
            self.each(mode, self.assert_finds_wrong_reply, lambda _, frame: frame[:-3] + b"y\r\n")

    def test_lost_reply_is_found(self):
        for mode in ("rtt", "req"):
            self.each(mode, self.assert_finds, lambda *_: b"")

    def test_doubled_reply_is_found(self):
        # nats.c drops a second reply to its own request without a word.
        for mode, but in (("rtt", ("natsc",)), ("req", ())):
            self.each(mode, self.assert_finds, lambda _, frame: frame * 2, but)

    def test_lost_message_is_found(self):
        self.each("sub", self.assert_finds, lambda *_: b"")

    def test_doubled_message_is_found(self):
        self.each("sub", self.assert_finds, lambda _, frame: frame * 2)

    def test_closed_connection_is_found(self):
        for mode in ("rtt", "req", "sub"):
            self.each(mode, self.assert_finds, close_now)

    def test_sockets_take_turns_with_the_library_and_are_checked_too(self):
        def check(done):
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertGreater(json.loads(done.stdout)["socket_client_cpu_ns"], 0)

        self.each("rtt", check, more=["--alternate"])
        # The first block of measured requests is the sockets'.
        self.each("rtt", self.assert_finds_wrong_reply, lambda _, frame: swap_last_digit(frame),
                  more=["--alternate"])

    def test_options_out_of_range_are_refused(self):
        program = os.path.join(BUILD, "midge-load-libmidge")
        for bad in (["--count", "0"], ["--count", "-1"], ["--size", "15"], ["--responder", "other"],
                    ["--url", "4222"], ["--clients", ""], ["--alternate", "--responder", "own"], ["extra"]):
            done = subprocess.run([program, "rtt", "--url", "nats://127.0.0.1:1", *bad],
                                  capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 1, bad)
            self.assertIn("usage:", done.stderr, bad)


class Rows(unittest.TestCase):
    def test_every_row_reads_loads_that_its_case_runs(self):
        made = {case.name: case.names for case in clients.make(clients.Sizes())}
        for row in clients.rows():
            for name in filter(None, ("midge", row.base, row.neutral, row.other, *row.again)):
                self.assertIn(name, made[row.case], row.text)

    def test_added_time_is_over_the_socket_of_the_same_run(self):
        done = {name: {"p50_ns": p50, "socket_p50_ns": base}
                for name, p50, base in (("midge", 31, 30), ("natsc", 60, 40))}
        for result in done.values():
            clients.derive(result)
        self.assertEqual(stats.ratios([done], "midge", "natsc", "added_ns"), [0.05])

    def test_cpu_time_is_shared_among_what_was_counted(self):
        result = {"client_cpu_ns": 1000, "count": 10}
        clients.derive(result)
        self.assertEqual((result["cpu_ns"], result["per_cpu_s"]), (100, 1e7))


class Verdict(unittest.TestCase):
    def measured(self, key, failed=(), **values):
        one = client.Clients.__new__(client.Clients)
        one.rounds = {"case": [{name: {key: value} for name, value in values.items()}] * 8}
        one.failed = {("case", name): "why" for name in failed}
        return one

    def test_ratio_is_met_up_to_and_including_its_limit(self):
        row = clients.Row("text", "case", "cpu_ns", "natsc", 0.2)
        for value, expected in ((199, "met"), (200, "met"), (201, "**missed**")):
            self.assertEqual(self.measured("cpu_ns", midge=value, natsc=1000).verdict(row), expected)

    def test_least_ratio_is_met_from_its_limit_on(self):
        row = clients.Row("text", "case", "per_cpu_s", "natsc", 2, is_floor=True)
        for value, expected in ((20, "met"), (19, "**missed**")):
            self.assertEqual(self.measured("per_cpu_s", midge=value, natsc=10).verdict(row), expected)

    def test_value_needs_no_other_library(self):
        row = clients.Row("text", "case", "resident_each", "natsc", 65536, is_value=True)
        for value, expected in ((65536, "met"), (65537, "**missed**")):
            one = self.measured("resident_each", ["natsc"], midge=value)
            self.assertEqual(one.verdict(row), expected)

    def test_library_that_failed_or_is_not_there_gives_no_verdict(self):
        row = clients.Row("text", "case", "cpu_ns", "natsc", 0.2)
        for failed in ("midge", "natsc"):
            one = self.measured("cpu_ns", [failed], midge=1, natsc=1000)
            self.assertEqual((one.verdict(row), one.value("case", failed, "cpu_ns")), ("failed", "failed"))
        self.assertEqual(self.measured("cpu_ns", midge=1).verdict(row), "unknown")


class OneRound(unittest.TestCase):
    def run_client(self, *arguments):
        return subprocess.run([sys.executable, client.__file__, "--build", BUILD, "--short", *arguments],
                              capture_output=True, text=True, timeout=120, check=False)

    def test_every_case_runs(self):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "client.json")
            done = self.run_client("--rounds", "1", "--json", path)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(path, encoding="utf-8") as file:
                result = json.load(file)
        self.assertEqual(result["failed"], [])
        for case, key in (("rtt", "added_ns"), ("req", "cpu_ns"), ("sub", "per_cpu_s"), ("pair", "p50_ns"),
                          ("mem", "resident_each")):
            self.assertIn(key, result["rounds"][case][0]["midge"], case)
        for block in done.stdout.split("\n\n"):
            if block.startswith("|"):
                self.assertEqual(len({line.count("|") for line in block.split("\n")}), 1)

    def test_plan_measures_nothing(self):
        done = self.run_client("--plan")
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        self.assertIn("req --warmup 200", done.stderr)


if __name__ == "__main__":
    unittest.main()
