"""The command of midge-bench: what it refuses, where it writes, how it ends.

Method: options by the hundred, none of which gets as far as to measure; then runs of a tenth of a second
against the broker, with outputs that cannot be written, signals, and servers that do not start or end early.
"""

import os
import subprocess
import tempfile
import unittest

BENCH = os.environ["MIDGE_BENCH"]
SERVER = os.environ["MIDGE_SERVER"]
TIMEOUT_S = 60
URL = ["--url", "nats://127.0.0.1:1"]
COMPARE = ["compare", "--a", SERVER]
CPUS = sorted(os.sched_getaffinity(0))


def run_bench(*arguments, **others):
    return subprocess.run([BENCH, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=TIMEOUT_S, check=False, **others)


class Command(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def path(self, name):
        return os.path.join(self.directory.name, name)

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
        self.refuse("--seed", "load", *URL, "--seed", "2")
        self.refuse("--transport", "rtt", *URL, "--transport", "unix")
        self.refuse("--server-pid", "rtt", "--server-cmd", SERVER, "--server-pid", "1")
        self.refuse("--json and --report", "rtt", *URL, "--json", "-", "--report", "-")

    def test_relay_is_for_what_can_be_relayed(self):
        self.refuse("--relay", "rtt", *URL, "--relay", "--driver", "midge")
        self.refuse("--relay", "load", *URL, "--relay", "--requesters", "2")
        self.refuse("--relay", "pub", *URL, "--relay", "--publishers", "2")

    def test_values_that_cannot_be_name_their_option(self):
        self.refuse("--b-driver pigeon", *COMPARE, "--b-driver", "pigeon")
        self.refuse("--place here", *COMPARE, "--place", "here")
        self.refuse("--url nats://", "rtt", "--url", "nats://no.such.host:1")
        self.refuse("--url tls:", "rtt", "--url", "tls://127.0.0.1:1")
        self.refuse("fly: wanted is a scenario", "fly")

    def test_curve_begins_before_it_ends(self):
        self.refuse("--rate-max", "curve", *URL, "--rate", "2000", "--rate-max", "1000")
        self.refuse("above 0", "curve", *URL, "--rate", "0")

    def test_metrics_that_a_scenario_has_not_are_refused(self):
        self.refuse("each", *COMPARE, "--metric", "each")
        self.refuse("p99 is not known of pub without a --rate", "compare", "pub", "--a", SERVER,
                    "--metric", "p99")
        self.refuse("cpu", "compare", "conns", "--a", SERVER, "--metric", "cpu")
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


if __name__ == "__main__":
    unittest.main()
