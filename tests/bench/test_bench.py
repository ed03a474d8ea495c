"""midge-bench: what it says is true, and what cannot be true it says.

Method: scenarios against the real broker and its files read back; a broker in Python that is right in all but
one point; and a bare relay that stands still for 100 ms, where the truth can be computed.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

sys.dont_write_bytecode = True
from bench_case import BENCH, SERVER, TIMEOUT_S, BenchCase, run_bench  # noqa: E402
from fake_broker import FakeBroker, close_now  # noqa: E402

FLOOR = os.environ["MIDGE_FLOOR"]
BRIEF = ["--duration", "300ms", "--warmup", "50ms", "--quiet"]


def highest_of(index):
    """Highest value of a bucket of the histogram."""
    if index < 2048:
        return index
    power, step = divmod(index - 2048, 1024)
    return ((1024 + step + 1) << (power + 1)) - 1


def from_the_top(histogram, place):
    """The sample that so many others are not below."""
    for index, count in reversed(histogram["buckets"]):
        place -= count
        if place <= 0:
            return highest_of(index)
    raise ValueError("fewer samples than that")


def command_of(pid):
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as text:
            return text.read().replace("\0", " ")
    except OSError:
        return ""


def is_sound(run):
    """Nothing is wrong but, on a busy machine, the pace of the load."""
    return run["failed"] is None or "fell behind" in run["failed"]


class Bench(BenchCase):
    def measure(self, *arguments, is_good=True):
        """The file that --json writes. A machine may be too busy for a rate: no fault of the rest."""
        done = run_bench(*arguments, "--json", self.path("out.json"))
        with open(self.path("out.json"), encoding="utf-8") as text:
            file = json.load(text)
        run = file["runs"][0]
        self.assertEqual(done.returncode, 0 if run["failed"] is None else 1, done.stdout + done.stderr)
        self.assertEqual(is_sound(run), is_good, run["failed"])
        return file

    def check_histogram(self, histogram):
        self.assertEqual(sum(count for _, count in histogram["buckets"]), histogram["count"])
        self.assertLessEqual(histogram["min_ns"], histogram["max_ns"])
        self.assertGreaterEqual(highest_of(histogram["buckets"][-1][0]), histogram["max_ns"])


class Scenarios(Bench):
    """Each one runs against the broker, and its figures fit together."""

    def run_scenario(self, name, *arguments, drivers=("raw",)):
        for driver in drivers:
            with self.subTest(driver=driver):
                # The one is always raw, the other has no warm-up.
                chosen = [] if name == "subs" else ["--driver", driver]
                times = [*BRIEF[:2], "--quiet"] if name == "conns" else BRIEF
                file = self.measure(name, "--server-cmd", SERVER, *chosen, "--no-floor", *times, *arguments)
                self.assertEqual(file["kind"], "run")
                run = file["runs"][0]
                self.assertEqual((run["scenario"], run["driver"]), (name, driver))
                self.assertGreater(run["received"], 0)
                if name != "conns":  # idle while it is measured
                    self.assertGreater(run["server"]["cpu_ns"], 0)
                self.assertGreater(run["server"]["resident_bytes"], 100000)
                yield run

    def test_rtt(self):
        for run in self.run_scenario("rtt", drivers=DRIVERS):
            self.check_histogram(run["latency"])
            self.assertEqual(run["latency"]["count"], run["received"])
            self.assertIsNone(run["service"])

    def test_rtt_with_headers_and_large_payload(self):
        for run in self.run_scenario("rtt", "--headers", "--size", "1000000", drivers=DRIVERS):
            self.assertGreater(run["latency"]["count"], 0)

    def test_load(self):
        for run in self.run_scenario("load", "--rate", "500", drivers=DRIVERS):
            self.assertEqual(run["sent"], 150)
            self.assertEqual(run["received"], 150)
            self.assertGreaterEqual(run["latency"]["sum_ns"], run["service"]["sum_ns"])

    def test_load_in_bursts(self):
        for run in self.run_scenario("load", "--rate", "20000", "--burst", "1000", "--requesters", "3",
                                     drivers=DRIVERS):
            # 300 ms of them, one each 50 ms, the first with the warm-up's end.
            self.assertEqual((run["sent"], run["received"], run["parameters"]["burst"]), (6000, 6000, 1000))

    def test_load_poisson_apart(self):
        poisson = ["--rate", "500", "--arrivals", "poisson", "--responder", "apart"]
        for run in self.run_scenario("load", *poisson):
            self.assertEqual(run["sent"], run["received"])
            self.assertNotEqual(run["sent"], 0)

    def test_workers(self):
        for run in self.run_scenario("workers", "--requesters", "3", "--responders", "2", "--in-flight", "2",
                                     drivers=DRIVERS):
            self.assertEqual(run["latency"]["count"], run["received"])

    def test_far_side_of_another_library(self):
        workers = ["--requesters", "1", "--responders", "1", "--in-flight", "16"]
        for scenario, arguments in (("workers", workers), ("pub", [])):
            for run in self.run_scenario(scenario, "--far-driver", "raw", *arguments, drivers=DRIVERS):
                self.assertEqual(run["parameters"]["far_driver"], "raw")
                self.assertGreater(run["load"]["near_cpu_per_message_ns"], 0)
                self.assertLess(run["load"]["near_cpu_per_message_ns"], run["load"]["cpu_per_message_ns"])

    def test_pub_at_full_speed_gives_no_latency(self):
        for run in self.run_scenario("pub", drivers=DRIVERS):
            self.assertIsNone(run["latency"])
            self.assertGreater(run["rate_per_s"], 1000)

    def test_pub_of_large_messages_is_whole_over_relays_too(self):
        file = self.measure("pub", "--server-cmd", SERVER, "--size", "65536", "--window", "256", *BRIEF)
        self.assertEqual([run["failed"] for run in file["runs"]], [None] * 3)

    def test_pub_at_a_rate_gives_one(self):
        for run in self.run_scenario("pub", "--rate", "500", drivers=DRIVERS):
            self.check_histogram(run["latency"])
            self.assertEqual((run["sent"], run["received"]), (150, 150))

    def test_fanout(self):
        for run in self.run_scenario("fanout", "--rate", "200", "--subscribers", "5"):
            self.assertEqual((run["sent"], run["received"]), (60, 300))

    def test_slow(self):
        config = self.path("server.conf")
        with open(config, "w", encoding="utf-8") as file:
            file.write("max_pending: 1MB\n")
        command = f"{SERVER} -c {config}"
        file = self.measure("slow", "--server-cmd", command, "--no-floor", "--size", "128", *BRIEF)
        self.assertEqual(file["runs"][0]["scenario_figures"]["stalled_closed"], 1)

    def test_slow_readers_are_in_no_figure(self):
        for run in self.run_scenario("slow", "--rate", "500", drivers=DRIVERS):
            self.assertEqual((run["sent"], run["received"], run["latency"]["count"]), (150, 300, 300))

    def test_instructions_are_counted_where_they_can_be_and_asked_for(self):
        for run in self.run_scenario("rtt"):
            self.assertIsNone(run["server"]["instructions_per_message"])
        for run in self.run_scenario("rtt", "--instructions"):
            count = run["server"]["instructions_per_message"]
            self.assertTrue(count is None or count > 100, count)

    def test_conns(self):
        for run in self.run_scenario("conns", "--connections", "200", drivers=DRIVERS):
            self.assertEqual((run["received"], run["latency"]["count"]), (200, 200))
            self.assertGreater(run["scenario_figures"]["setup_per_s"], 10)
            self.assertLess(run["scenario_figures"]["idle_cores"], 1)
        for run in self.run_scenario("conns", "--connections", "3"):
            self.assertEqual(run["received"], 3)

    def test_subs(self):
        for arguments in (["--rate", "0"], ["--rate", "300"]):
            for run in self.run_scenario("subs", "--subscriptions", "20000", *arguments):
                self.assertGreater(run["scenario_figures"]["changes"], 500)
                self.assertGreater(run["scenario_figures"]["setup_per_s"], 1000)
                self.assertGreater(run["scenario_figures"]["resident_each"], 10)

    def test_unix_socket_and_relays(self):
        file = self.measure("rtt", "--server-cmd", SERVER, "--transport", "unix", *BRIEF)
        self.assertEqual([run["key"] for run in file["runs"]], ["a", "floor", "floor-io_uring"])
        self.assertEqual({run["transport"] for run in file["runs"]}, {"unix"})
        self.assertEqual([run["failed"] for run in file["runs"]], [None] * 3)


class Omission(Bench):
    """A relay that forwards nothing for 100 ms, after 300 ms."""

    RATE = 5000
    SECONDS = 1.0
    STALL_S = 0.1

    def measure_stall(self, scenario, *arguments):
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        relay = subprocess.Popen([FLOOR, "--engine", "epoll", "--listen", f"tcp:{port}", "--stall-at-ms",
                                  "300", "--stall-ms", str(int(1000 * self.STALL_S))])
        try:
            file = self.measure(scenario, "--relay", "--url", f"nats://127.0.0.1:{port}", "--no-floor",
                                "--duration", f"{int(1000 * self.SECONDS)}ms", "--warmup", "0ms", "--quiet",
                                *arguments)
        finally:
            relay.send_signal(signal.SIGTERM)
            relay.wait()
        return file["runs"][0]

    def test_open_loop_shows_the_stall(self):
        run = self.measure_stall("load", "--rate", str(self.RATE))
        latency = run["latency"]
        self.assertEqual(latency["count"], self.RATE * self.SECONDS)
        # What was meant to leave in the stall waits for the rest of it: 100 ms, and so on down to 0.
        self.assertAlmostEqual(latency["max_ns"] / 1e9, self.STALL_S, delta=0.05 * self.STALL_S)
        for place in (100, 200, 300):
            truth = 1e9 * self.STALL_S * (1 - place / (self.RATE * self.STALL_S))
            self.assertAlmostEqual(from_the_top(latency, place), truth, delta=0.05 * truth)
        self.assertLess(from_the_top(run["service"], 100), 1.05e9 * self.STALL_S)

    def test_closed_loop_hides_it(self):
        run = self.measure_stall("rtt")
        # One request stood in the stall; hundreds were not sent meanwhile, and nobody knows.
        self.assertGreater(run["latency"]["max_ns"], 0.95e9 * self.STALL_S)
        self.assertLess(from_the_top(run["latency"], 10), 0.5e9 * self.STALL_S)


class Faults(Bench):
    """A broker that is right but in one point: the run fails, and says which."""

    def run_against(self, fault, *arguments):
        broker = FakeBroker(fault)
        self.addCleanup(broker.close)
        file = self.measure(*arguments, "--url", broker.url, "--no-floor", "--timeout", "500ms", *BRIEF,
                            is_good=False)
        return file["runs"][0]

    def run_each_driver(self, fault, *arguments):
        for driver in DRIVERS:
            with self.subTest(driver=driver):
                yield self.run_against(fault, *arguments, "--driver", driver)

    def test_right_broker_is_measured(self):
        broker = FakeBroker()
        self.addCleanup(broker.close)
        for scenario in (["rtt"], ["load", "--rate", "100"], ["pub", "--rate", "100"]):
            file = self.measure(*scenario, "--url", broker.url, "--no-floor", *BRIEF)
            self.assertGreater(file["runs"][0]["received"], 10)

    def test_wrong_reply(self):
        for run in self.run_each_driver(lambda _, frame: frame[:-3] + b"!\r\n", "rtt", "--size", "40"):
            self.assertEqual(run["wrong"], 1)
            self.assertIn("wrong reply", run["failed"])

    def test_wrong_time_in_the_smallest_payload(self):
        def change(_, frame):
            return frame[:-10] + bytes([frame[-10] ^ 1]) + frame[-9:]

        for scenario in (["rtt"], ["load", "--rate", "200"], ["pub", "--rate", "200"], ["pub"]):
            self.assertGreater(self.run_against(change, *scenario)["wrong"], 0, scenario)

    def test_late_reply_stops_nobody_else(self):
        def delay(target, frame):
            threading.Timer(0.2, target.send, [frame]).start()
            return b""

        broker = FakeBroker(delay)
        self.addCleanup(broker.close)
        run = self.measure("workers", "--requesters", "4", "--responders", "1", "--url", broker.url,
                           "--no-floor", *BRIEF, "--warmup", "0ms")["runs"][0]
        self.assertGreater(run["latency"]["max_ns"], 150000000)
        self.assertEqual(run["missed"], 0)
        fast = sum(count for index, count in run["latency"]["buckets"] if highest_of(index) < 100000000)
        self.assertGreater(fast, 100)

    def test_lost_reply(self):
        for run in self.run_each_driver(lambda *_: b"", "load", "--rate", "200"):
            self.assertEqual(run["timeouts"], 1)

    def test_doubled_reply(self):
        for run in self.run_each_driver(lambda _, frame: frame * 2, "load", "--rate", "200"):
            self.assertEqual(run["doubled"], 1)

    def test_closed_connection(self):
        for run in self.run_each_driver(close_now, "load", "--rate", "200"):
            self.assertIsNotNone(run["failed"])

    def test_lost_message(self):
        for scenario in (["pub", "--rate", "200"], ["pub"]):
            for run in self.run_each_driver(lambda *_: b"", *scenario):
                self.assertGreater(run["lost"], 0, scenario)

    def test_doubled_message(self):
        for scenario in (["pub", "--rate", "200"], ["pub"]):
            for run in self.run_each_driver(lambda _, frame: frame * 2, *scenario):
                self.assertEqual(run["doubled"], 1, scenario)

    def test_message_doubled_behind_the_last(self):
        def keep(target, frame):
            target.before_pong = frame
            return frame

        for driver in ("raw", "midge"):  # nats.c calls back in a thread, and may be behind its PONG
            # 25 messages in all.
            run = self.run_against(keep, "pub", "--rate", "70", "--driver", driver)
            self.assertEqual((run["sent"] > 0, run["doubled"]), (True, 1), driver)

    def test_message_lost_or_doubled_among_many_subscriptions(self):
        subs = ["subs", "--subscriptions", "100", "--changes", "0", "--rate", "200"]
        self.assertEqual(self.run_against(lambda *_: b"", *subs)["lost"], 1)
        self.assertEqual(self.run_against(lambda _, frame: frame * 2, *subs)["doubled"], 1)

    def test_message_for_another_subscription(self):
        def take_next(_, frame):
            words = frame.split(b" ", 3)
            return b" ".join([*words[:2], b"%d" % (int(words[2]) + 2), words[3]])

        run = self.run_against(take_next, "subs", "--subscriptions", "100", "--changes", "0", "--rate", "200")
        self.assertEqual(run["wrong"], 1)
        self.assertIn("another subscription", run["failed"])

    def test_idle_connection_that_is_dead(self):
        broker = FakeBroker(pongs=8)  # one for each connection
        self.addCleanup(broker.close)
        file = self.measure("conns", "--url", broker.url, "--connections", "8", "--timeout", "500ms",
                            *BRIEF[:2], "--quiet", is_good=False)
        self.assertIn("gave no PONG", file["runs"][0]["failed"])

    def test_run_in_which_nothing_was_sent(self):
        file = self.measure("load", "--server-cmd", SERVER, "--rate", "1", *BRIEF, is_good=False)
        self.assertEqual(len(file["runs"]), 1, "a relay has nothing to be compared with")
        self.assertIn("nothing was sent", file["runs"][0]["failed"])

    def test_readings_that_come_too_late_give_no_rate(self):
        bench = subprocess.Popen([BENCH, "rtt", "--server-cmd", SERVER, "--no-floor", "--warmup", "3s",
                                  "--duration", "1s", "--json", self.path("out.json")],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        bench.stderr.readline()  # "run 1 of 1"
        time.sleep(1.5)  # it warms up
        os.kill(bench.pid, signal.SIGSTOP)
        time.sleep(4)
        os.kill(bench.pid, signal.SIGCONT)
        _, errors = bench.communicate(timeout=TIMEOUT_S)
        with open(self.path("out.json"), encoding="utf-8") as text:
            run = json.load(text)["runs"][0]
        self.assertEqual((bench.returncode, run["failed"]), (0, None), errors)
        self.assertTrue(run["is_read_late"])
        self.assertEqual((run["rate_per_s"], run["server"]["cpu_per_message_ns"]), (None, None))
        self.assertGreater(run["latency"]["count"], 0)

    def test_server_that_is_killed(self):
        bench = subprocess.Popen([BENCH, "rtt", "--server-cmd", SERVER, "--no-floor", "--duration", "20s",
                                  "--json", self.path("out.json")], stderr=subprocess.PIPE, text=True)
        bench.stderr.readline()  # "run 1 of 1"
        children = f"/proc/{bench.pid}/task/{bench.pid}/children"
        victim = None
        while victim is None:
            with open(children, encoding="ascii") as text:
                pids = text.read().split()
            victim = next((pid for pid in pids if command_of(pid).startswith(SERVER)), None)
        time.sleep(0.3)
        os.kill(int(victim), signal.SIGKILL)
        _, errors = bench.communicate(timeout=TIMEOUT_S)
        self.assertEqual(bench.returncode, 1, errors)
        with open(self.path("out.json"), encoding="utf-8") as text:
            run = json.load(text)["runs"][0]
        self.assertIsNotNone(run["failed"])
        self.assertIsNone(run["server"])

    def test_load_that_falls_behind(self):
        done = run_bench("load", "--server-cmd", SERVER, "--rate", "3000000", "--no-floor", *BRIEF)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "fell behind|no reply in time")


class Output(Bench):
    def test_hgrm_has_all_samples(self):
        file = self.measure("rtt", "--server-cmd", SERVER, "--no-floor", "--hgrm", self.path("hgrm"), *BRIEF)
        with open(os.path.join(self.path("hgrm"), "a.hgrm"), encoding="utf-8") as hgrm:
            text = hgrm.read()
        count = file["runs"][0]["latency"]["count"]
        self.assertRegex(text, rf"Total count\s*=\s*{count}\b")
        rows = [line.split() for line in text.splitlines() if re.match(r"\s*\d", line)]
        self.assertEqual(int(rows[-1][2]), count)

    def test_compare_has_ratios_and_control(self):
        done = run_bench("compare", "--a", SERVER, "--b", f"{SERVER} --threads 1", "--rounds", "2", *BRIEF,
                         "--json", self.path("compare.json"), "--report", self.path("report.html"))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        with open(self.path("compare.json"), encoding="utf-8") as text:
            file = json.load(text)
        self.assertEqual([one["key"] for one in file["subjects"]],
                         ["a", "b", "a-again", "floor", "floor-io_uring"])
        self.assertEqual(file["metric"], "p50")
        pairs = {(one["subject"], one["base"]) for one in file["ratios"] if one["metric"] == "p50"}
        self.assertEqual(pairs, {("a", "b"), ("a-again", "a"), ("a", "floor"), ("b", "floor")})
        self.assertEqual({one["verdict"] for one in file["ratios"]}, {"unknown"}, "two rounds tell nothing")
        self.assertIn("too few rounds", done.stdout)
        self.assertGreater(os.path.getsize(self.path("report.html")), 10000)

    def test_percentiles_with_few_samples_are_unknown(self):
        done = run_bench("load", "--server-cmd", SERVER, "--rate", "100", "--no-floor", *BRIEF)
        row = next(line for line in done.stdout.splitlines() if line.startswith("| midge-server"))
        self.assertIn("unknown", row)

    def test_environment_is_recorded(self):
        file = self.measure("rtt", "--server-cmd", SERVER, "--no-floor", *BRIEF)
        for key in ("kernel", "cpu_model", "mitigations", "governor", "load_average", "commit"):
            self.assertIn(key, file["environment"])
        self.assertIn("--server-cmd", file["command_line"])


class CommandLine(unittest.TestCase):
    def refuse(self, *arguments):
        done = run_bench(*arguments)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        return done.stderr

    def test_help_and_version(self):
        self.assertIn("usage: midge-bench", run_bench("--help").stdout)
        self.assertRegex(run_bench("--version").stdout, r"^midge-bench \d")

    def test_what_cannot_be_is_refused(self):
        self.assertIn("scenario", self.refuse("fly"))
        self.assertIn("--url", self.refuse("rtt"))
        self.assertIn("--rate", self.refuse("rtt", "--url", "nats://127.0.0.1:1", "--rate", "fast"))
        self.assertIn("from 16", self.refuse("rtt", "--url", "nats://127.0.0.1:1", "--size", "8"))
        self.assertIn("500ms", self.refuse("rtt", "--url", "nats://127.0.0.1:1", "--duration", "5"))
        self.assertIn("--a", self.refuse("compare", "--b", "midge-server"))
        self.assertIn("-o", self.refuse("report", "x.json"))
        self.assertIn("wanted is", self.refuse("rtt", "--url", "nats://127.0.0.1:1", "--driver", "pigeon"))

    def test_no_server_is_said(self):
        done = run_bench("rtt", "--server-cmd", "/no/such/server -p {port}", "--no-floor", *BRIEF)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/no/such/server", done.stderr)


DRIVERS = tuple(re.search(r"client library: ([a-z, ]+) \(", run_bench("--help").stdout)[1].split(", "))

if __name__ == "__main__":
    unittest.main()
