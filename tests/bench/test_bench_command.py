"""The command of midge-bench: what it refuses, where it writes, how it ends.

Method: options by the hundred, none of which gets as far as to measure; then runs of a tenth of a second
against the broker, with outputs that cannot be written, signals, and servers that do not start or end early.
"""

import fcntl
import json
import os
import pty
import resource
import shlex
import signal
import struct
import subprocess
import sys
import termios
import unittest

sys.dont_write_bytecode = True
from bench_case import BENCH, SERVER, TIMEOUT_S, BenchCase, run_bench  # noqa: E402
from fake_broker import FakeBroker, close_now  # noqa: E402

URL = ["--url", "nats://127.0.0.1:1"]
BRIEF = ["--duration", "100ms", "--warmup", "20ms", "--quiet"]
COMPARE = ["compare", "--a", SERVER]
CPUS = sorted(os.sched_getaffinity(0))


class Command(BenchCase):
    def refuse(self, wanted, *arguments):
        with self.subTest(arguments=arguments):
            done = run_bench(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            self.assertIn(wanted, done.stderr)


class Options(Command):
    def test_those_of_other_scenarios_are_refused_by_name(self):
        for scenario, options in {
                "rtt": ["--rate 5", "--arrivals poisson", "--publishers 2", "--subscribers 2", "--stalled 1",
                        "--requesters 2", "--responders 2", "--in-flight 2", "--window 9", "--connections 9",
                        "--subscriptions 9", "--changes 9", "--seed 2"],
                "load": ["--publishers 2", "--in-flight 4", "--stalled 1"],
                "workers": ["--subscribers 2", "--window 9"],
                "pub": ["--stalled 1", "--requesters 2", "--responder own", "--connections 9"],
                "slow": ["--relay"],
                "conns": ["--rate 5", "--size 32", "--warmup 1s", "--headers", "--spin", "--publishers 2"],
                "subs": ["--driver raw", "--headers", "--window 9", "--relay"]}.items():
            for option in options:
                name = option.split()[0]
                self.refuse(f"{name} is not for {scenario}; see --help", scenario, *URL, *option.split())

    def test_those_of_other_commands_are_refused_by_name(self):
        for option in ("--a x", "--b x", "--rounds 3", "--metric p50", "--aim p50<=1", "--a-driver raw",
                       "--rate-max 9"):
            self.refuse(f"{option.split()[0]} is not for load; see --help", "load", *URL, *option.split())
        for option in ("--url nats://127.0.0.1:1", "--server-cmd x", "--server-pid 1"):
            self.refuse(f"{option.split()[0]} is not for compare rtt; see --help", *COMPARE, *option.split())
        self.refuse("--b is not for curve; see --help", "curve", *URL, "--b", "x")
        self.refuse("--json is not for report; see --help", "report", "x.json", "-o", "y", "--json", "z")

    def test_those_that_change_nothing_beside_others_are_refused(self):
        self.refuse("--in-flight", "workers", *URL, "--in-flight", "2", "--rate", "100")
        self.refuse("--window", "pub", *URL, "--window", "9", "--rate", "100")
        self.refuse("--arrivals", "pub", *URL, "--arrivals", "poisson")
        self.refuse("--burst", "pub", *URL, "--burst", "10")
        self.refuse("--far-driver", "load", *URL, "--far-driver", "raw")
        self.refuse("--seed", "load", *URL, "--seed", "2")
        self.refuse("--transport", "rtt", *URL, "--transport", "unix")
        self.refuse("--server-pid", "rtt", "--server-cmd", SERVER, "--server-pid", "1")
        self.refuse("--json and --report", "rtt", *URL, "--json", "-", "--report", "-")

    def test_relay_is_for_what_can_be_relayed(self):
        self.refuse("--relay", "rtt", *URL, "--relay", "--driver", "midge")
        self.refuse("--relay", "load", *URL, "--relay", "--requesters", "2")
        self.refuse("--relay", "pub", *URL, "--relay", "--publishers", "2")
        self.refuse("--relay", "pub", *URL, "--relay", "--far-driver", "raw")

    def test_values_that_cannot_be_name_their_option(self):
        self.refuse("--b-driver pigeon", *COMPARE, "--b-driver", "pigeon")
        self.refuse("--place here", *COMPARE, "--place", "here")
        self.refuse("--url nats://", "rtt", "--url", "nats://no.such.host:1")
        self.refuse("--url tls:", "rtt", "--url", "tls://127.0.0.1:1")
        self.refuse("fly: wanted is a scenario", "fly")

    def test_servers_that_cannot_be_told_where_to_listen_are_refused(self):
        self.refuse("--server-cmd: its command does not say", "rtt", "--server-cmd", "false")
        self.refuse("--server-cmd: its command is empty", "rtt", "--server-cmd", "")
        self.refuse("--b: its command has a quote", *COMPARE, "--b", "nats-server '")
        self.refuse("only one of them", "rtt", *URL, "--server-cmd", SERVER)

    def test_curve_begins_before_it_ends(self):
        self.refuse("--rate-max", "curve", *URL, "--rate", "2000", "--rate-max", "1000")
        self.refuse("above 0", "curve", *URL, "--rate", "0")

    def test_metrics_that_a_scenario_has_not_are_refused(self):
        self.refuse("each", *COMPARE, "--metric", "each")
        self.refuse("p99 is not known of pub without a --rate", "compare", "pub", "--a", SERVER,
                    "--metric", "p99")
        self.refuse("cpu", "compare", "conns", "--a", SERVER, "--metric", "cpu")
        self.refuse("near-cpu", "compare", "pub", "--a", SERVER, "--metric", "near-cpu")
        self.refuse("load-each", *COMPARE, "--metric", "slowness")

    def test_aims_are_for_what_is_compared(self):
        for base in ("b", "c", "x", "a", "floors"):
            self.refuse(f"p50 of {base} is not measured", *COMPARE, "--aim", f"p50<=1.1*{base}")
        self.refuse("floor", *COMPARE, "--aim", "p50<=1.1*floor", "--no-floor")
        self.refuse("floor", *COMPARE, "--aim", "rss<=1.1*floor")
        self.refuse("each", *COMPARE, "--aim", "each<=100")
        self.refuse("floor-io_uring", "compare", "fanout", "--a", SERVER, "--aim", "cpu<=2*floor-io_uring")


class Place(Command):
    def test_lists_are_of_cpus_that_there_are(self):
        rtt = ["rtt", "--server-cmd", SERVER]
        self.refuse("CPU 1023", *rtt, "--load-cpus", "1023", "--server-cpus", str(CPUS[0]))
        self.refuse("CPU 1023", *rtt, "--server-cpus", "1023", "--load-cpus", str(CPUS[0]))
        self.refuse("go together", *rtt, "--load-cpus", str(CPUS[0]))
        self.refuse("list of CPUs", *rtt, "--load-cpus", "0-")
        self.refuse("--place", *rtt, "--load-cpus", "0", "--place", "free")

    def test_server_at_a_url_stays_where_it_is(self):
        self.refuse("--url", "rtt", *URL, "--server-cpus", "0", "--load-cpus", "0")
        self.refuse("--url", "rtt", *URL, "--place", "one")
        self.refuse("--url", "rtt", *URL, "--place", "apart")

    def test_load_that_spins_does_not_share_its_cpu(self):
        self.refuse("--spin", *COMPARE, "--spin", "--place", "one")


class Outputs(Command):
    RUN = ["rtt", "--server-cmd", SERVER, "--no-floor", *BRIEF]

    def read(self, name):
        with open(self.path(name), encoding="utf-8") as file:
            return json.load(file)

    def test_those_that_cannot_be_written_are_told_before_anything_runs(self):
        server = ["rtt", "--server-cmd", f"sh -c 'touch {self.path('was-started')}' {{port}}"]
        for name in ("--json", "--report", "--hgrm"):
            done = run_bench(*server, name, self.path("none/x"))
            self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
            self.assertIn(self.path("none/x"), done.stderr)
        done = run_bench(*server, "--json", self.directory.name)
        self.assertIn("directory", done.stderr)
        with open(self.path("file"), "w", encoding="utf-8") as file:
            file.write("kept")
        done = run_bench(*server, "--hgrm", self.path("file"))
        self.assertIn("Not a directory", done.stderr)
        done = run_bench(*server, "--json", self.path("one"), "--report", self.path("one"))
        self.assertIn("cannot be both", done.stderr)
        self.assertEqual(os.listdir(self.directory.name), ["file"])

    def test_failed_run_leaves_no_histogram(self):
        broker = FakeBroker(close_now)
        self.addCleanup(broker.close)
        done = run_bench("load", "--rate", "200", "--url", broker.url, "--duration", "500ms", "--hgrm",
                         self.path("hgrm"))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertEqual(os.listdir(self.path("hgrm")), [])

    def test_full_standard_output_is_a_failure(self):
        for arguments in (self.RUN, [*self.RUN, "--json", "-"], ["--help"]):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([BENCH, *arguments], stdout=full, stderr=subprocess.PIPE, text=True,
                                      timeout=TIMEOUT_S, check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("standard output: No space left", done.stderr)

    def test_one_that_fails_spares_the_others(self):
        done = run_bench(*self.RUN, "--json", "/dev/full", "--hgrm", self.path("hgrm"), "--report",
                         self.path("report.html"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("/dev/full", done.stderr)
        self.assertEqual(os.listdir(self.path("hgrm")), ["a.hgrm"])
        self.assertGreater(os.path.getsize(self.path("report.html")), 10000)

    def test_command_line_can_be_given_to_a_shell(self):
        label = "it's $HOME"
        done = run_bench(*self.RUN, "--title", label, "--json", self.path("out.json"))
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(shlex.split(self.read("out.json")["command_line"]),
                         [BENCH, *self.RUN, "--title", label, "--json", self.path("out.json")])

    def test_nothing_is_said_of_service_where_nothing_is_known(self):
        done = run_bench("load", "--server-cmd", SERVER, "--no-floor", *BRIEF, "--rate", "50",
                         "--timeout", "1s")
        self.assertNotIn("service time", done.stdout)

    def test_server_files_go_to_tmpdir_and_are_gone_afterwards(self):
        script = self.path("server.sh")
        with open(script, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nls -d "$TMPDIR"/midge-bench-* >{self.path("seen")}\n'
                       f'exec {SERVER} "$@"\n')
        os.chmod(script, 0o755)
        os.mkdir(self.path("tmp"))
        done = run_bench("rtt", "--server-cmd", f"{script} -a 127.0.0.1 -p {{port}}", "--no-floor", *BRIEF,
                         env={**os.environ, "TMPDIR": self.path("tmp")})
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.path("seen"), encoding="utf-8") as file:
            self.assertRegex(file.read(), rf"^{self.path('tmp')}/midge-bench-\w+\n$")
        self.assertEqual(os.listdir(self.path("tmp")), [])


class Ends(Command):
    """Servers that do not start or end too early, and signals."""

    def compare(self, *arguments, returncode=1):
        done = run_bench("compare", *arguments, *BRIEF, "--json", self.path("out.json"))
        self.assertEqual(done.returncode, returncode, done.stdout + done.stderr)
        with open(self.path("out.json"), encoding="utf-8") as file:
            return done, json.load(file)

    def script(self, name, text):
        path = self.path(name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)
        return path

    def test_programs_are_looked_for_before_anything_runs(self):
        script = self.script("a", f"touch {self.path('was-started')}")
        done = run_bench("compare", "--a", f"{script} {{port}}", "--b", "/no/such/server {port}")
        self.assertEqual(done.returncode, 1)
        self.assertIn("/no/such/server: No such file", done.stderr)
        self.assertEqual(os.listdir(self.directory.name), ["a"])
        done = run_bench("compare", "--a", SERVER, "--b", "no-such-server {port}")
        self.assertIn("no-such-server: No such file", done.stderr)

    def test_start_that_fails_spares_the_other_runs(self):
        starts_once = self.script("b", f"[ ! -e {self.path('was')} ] || exit 7\n"
                                       f"case \"$*\" in *-p*) touch {self.path('was')};; esac\n"
                                       f'exec {SERVER} "$@"')
        done, file = self.compare("--a", SERVER, "--b", f"{starts_once} -a 127.0.0.1 -p {{port}}",
                                  "--rounds", "8", "--no-floor")
        self.assertEqual([round["a"]["failed"] for round in file["rounds"]], [None] * 8)
        self.assertEqual([round["b"]["failed"] for round in file["rounds"]],
                         [None] + ["could not be started"] * 7)
        ratio = next(one for one in file["ratios"] if one["metric"] == "cpu" and
                     (one["subject"], one["base"]) == ("a", "b"))
        self.assertEqual((ratio["rounds"], ratio["round_count"], ratio["failed_rounds"]), (1, 8, 7))
        self.assertIn("in 1 of 8 rounds, no verdict, since runs failed", done.stdout)
        self.assertIn("exit status 7", done.stderr)

    def test_one_failed_round_leaves_no_verdict(self):
        fails_once = self.script("b", "case \"$*\" in *-p*) n=$(cat {0} 2>/dev/null || echo 0); "
                                      "echo $((n + 1)) >{0}; [ $n != 2 ] || exit 7;; esac\n"
                                      "exec {1} \"$@\"".format(self.path("count"), SERVER))
        done, file = self.compare("--a", SERVER, "--b", f"{fails_once} -a 127.0.0.1 -p {{port}}",
                                  "--rounds", "9", "--no-floor", "--aim", "cpu<=9*b",
                                  "--aim", "cpu<=900*a-again")
        # CPU time is known of each run that counts; a percentile is not, where the machine is busy.
        ratio, control = (next(one for one in file["ratios"] if one["metric"] == "cpu" and
                               (one["subject"], one["base"]) == pair)
                          for pair in (("a", "b"), ("a-again", "a")))
        self.assertEqual((ratio["rounds"], ratio["round_count"], ratio["verdict"]), (8, 9, "unknown"))
        self.assertIsNone(ratio["low"])
        self.assertEqual([aim["is_met"] for aim in file["aims"]], [None, True])
        self.assertIn("since runs failed", done.stdout)
        self.assertNotEqual(control["verdict"], "unknown")

    def test_server_that_ends_in_the_run_is_told(self):
        ends = self.script("a", f'{SERVER} "$@" &\nsleep 0.25\nkill $!\necho I give up\nkill -SEGV $$')
        done = run_bench("rtt", "--server-cmd", f"{ends} -a 127.0.0.1 -p {{port}}", "--no-floor",
                         "--duration", "600ms", "--quiet", "--json", self.path("out.json"))
        self.assertEqual(done.returncode, 1)
        self.assertIn("I give up", done.stderr)
        self.assertIn("signal 11", done.stderr)
        with open(self.path("out.json"), encoding="utf-8") as file:
            self.assertIn("the server ended during the run", json.load(file)["runs"][0]["failed"])

    def interrupt(self, number, *arguments):
        """Once the second thing is said to begin. @return what was printed"""
        os.mkdir(self.path("tmp"))
        bench = subprocess.Popen([BENCH, *arguments, "--duration", "300ms", "--warmup", "0ms", "--json",
                                  self.path("out.json")], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                 text=True, env={**os.environ, "TMPDIR": self.path("tmp")})
        said = ""
        for line in bench.stderr:
            said += line
            if "2 of" in line or " 30/s" in line:
                break
        bench.send_signal(number)
        stdout, stderr = bench.communicate(timeout=TIMEOUT_S)
        self.assertEqual(bench.returncode, 128 + number, said + stderr)
        self.assertEqual(os.listdir(self.path("tmp")), [])
        self.assertIn("Interrupted", stdout)
        with open(self.path("out.json"), encoding="utf-8") as file:
            return stdout, json.load(file)

    def test_signal_keeps_the_rounds_that_are_whole(self):
        stdout, file = self.interrupt(signal.SIGINT, *COMPARE, "--rounds", "50", "--no-floor")
        self.assertEqual([sorted(round) for round in file["rounds"]], [["a", "a-again"]])
        self.assertTrue(file["is_interrupted"])
        self.assertIn("Of 50 rounds 1 are here", stdout)

    def test_signal_ends_a_curve(self):
        _, file = self.interrupt(signal.SIGTERM, "curve", "--server-cmd", SERVER, "--rate", "20",
                                 "--timeout", "1s")
        self.assertGreaterEqual(len(file["runs"]), 1)
        self.assertIsNone(file["knee_per_s"])

    def test_open_files_go_as_far_as_they_may(self):
        seen = self.script("a", f"ulimit -n >{self.path('limit')}\nexec {SERVER} \"$@\"")
        done = run_bench("rtt", "--server-cmd", f"{seen} -a 127.0.0.1 -p {{port}}", "--no-floor", *BRIEF,
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024)))
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(self.path("limit"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "1024\n")
        done = run_bench("conns", "--server-cmd", SERVER, "--connections", "1000",
                         preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024)))
        self.assertEqual(done.returncode, 1)
        self.assertIn("ulimit -n", done.stderr)

    def test_more_connections_than_ports_are_refused(self):
        with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="utf-8") as file:
            low, high = map(int, file.read().split())
        if high - low + 1 >= 60000:
            self.skipTest("there are ports for all connections")
        done = run_bench("conns", *URL, "--connections", "60000")
        self.assertEqual(done.returncode, 1)
        self.assertIn("Unix socket", done.stderr)


class Progress(Command):
    def test_line_is_no_wider_than_the_terminal(self):
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 30, 0, 0))
        done = subprocess.run([BENCH, "rtt", "--server-cmd", SERVER, "--no-floor", "--duration", "700ms"],
                              stdout=subprocess.DEVNULL, stderr=slave, timeout=TIMEOUT_S, check=False)
        os.close(slave)
        shown = []
        try:
            while chunk := os.read(master, 4096):
                shown.append(chunk)
        except OSError:
            pass  # the other end is closed
        self.assertEqual(done.returncode, 0)
        lines = [line for line in b"".join(shown).split(b"\r\x1b[K") if line.startswith(b"rtt  ")]
        self.assertGreaterEqual(len(lines), 2)
        self.assertLessEqual(max(map(len, lines)), 29)


class Curve(Command):
    def measure(self, *arguments, returncode=0):
        done = run_bench("curve", "--json", self.path("out.json"), "--quiet", "--warmup", "50ms",
                         "--timeout", "1s", *arguments)
        self.assertEqual(done.returncode, returncode, done.stdout + done.stderr)
        with open(self.path("out.json"), encoding="utf-8") as file:
            return done.stdout, json.load(file)

    def test_ends_at_its_highest_rate(self):
        # 40 messages or more: one that comes late is no knee.
        stdout, file = self.measure("--server-cmd", SERVER, "--rate", "40", "--rate-max", "60",
                                    "--duration", "1s")
        self.assertEqual([run["parameters"]["rate"] for run in file["runs"]], [40, 60])
        self.assertEqual((file["knee_per_s"], file["knee_reason"]), (None, None))
        self.assertIn("no knee", stdout)

    def test_first_rate_that_fails_is_no_knee(self):
        broker = FakeBroker(close_now)
        self.addCleanup(broker.close)
        stdout, file = self.measure("--url", broker.url, "--rate", "200", "--duration", "200ms", returncode=1)
        self.assertEqual(len(file["runs"]), 1)
        self.assertIsNone(file["knee_per_s"])
        self.assertNotIn("The knee is behind", stdout)


if __name__ == "__main__":
    unittest.main()
