"""The regression gate: a loss that repeats fails, one that does not passes, and what cannot be told is said.

Method: made-up measurements against a made-up baseline, whose verdicts are known; damaged baselines; and the
counter of allocator calls on a program whose calls are known.
"""

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))
import regress  # noqa: E402

BUILD = os.environ["MIDGE_BUILD"]
MACHINE = {"cpu_model": "Abacus", "compiler": "GNU 1", "build_flags": "-O2"}
OTHER = {**MACHINE, "cpu_model": "Slide rule"}


def good_values():
    """Each figure at the baseline; instructions are not counted there."""
    return {figure.name: 2 if figure.bound is not None else 10.0 for figure in regress.FIGURES} | {
        "rtt.instructions": None, "pub.instructions": None}


def make_baseline(**values):
    all_values = good_values() | {name.replace("_", ".", 1): value for name, value in values.items()}
    return regress.baseline_of(all_values, {}, {**MACHINE, "commit": "abc"})


class Measured:
    """Instead of midge-bench: each figure as in the baseline, but for some, which have a value per try."""

    def __init__(self, **tries):
        self.tries = {name.replace("_", ".", 1): list(values) for name, values in tries.items()}
        self.asked = []

    def __call__(self, part):
        self.asked.append(part)
        values = {figure.name: good_values()[figure.name] for figure in regress.FIGURES
                  if figure.part == part}
        for name, left in self.tries.items():
            if name.removesuffix(".note") in values:
                values[name] = left.pop(0)
        return values


def judge(measured, baseline=None, is_strict=False, machine=None):
    """{figure: (what is said, is it lost)}"""
    gate = regress.Gate(baseline or make_baseline(), measured, is_strict)
    return {figure.name: (text, is_lost)
            for figure, _, _, text, is_lost in gate.run(lambda: machine or MACHINE)}


class Judged(unittest.TestCase):
    def expect(self, verdicts, name, text, is_lost=False):
        self.assertIn(text, verdicts[name][0])
        self.assertEqual([key for key, (_, lost) in verdicts.items() if lost], [name] if is_lost else [])


class Verdict(Judged):
    def test_what_is_as_before_is_measured_once(self):
        measured = Measured()
        self.expect(judge(measured), "rtt.cpu_over_relay", "kept")
        self.assertEqual(measured.asked, regress.parts())

    def test_a_loss_that_repeats_three_times_is_lost(self):
        measured = Measured(rtt_cpu_over_relay=(11.6, 11.7, 11.8))
        self.expect(judge(measured), "rtt.cpu_over_relay", "LOST", True)
        self.assertEqual(measured.asked[len(regress.parts()):], ["rtt", "rtt"])

    def test_a_loss_that_does_not_repeat_is_none(self):
        for tries in ((13.0, 11.4), (13.0, 13.0, 11.4)):
            measured = Measured(rtt_cpu_over_relay=tries)
            self.expect(judge(measured), "rtt.cpu_over_relay", "did not repeat")
            self.assertEqual(len(measured.asked), len(regress.parts()) + len(tries) - 1)

    def test_fifteen_percent_is_no_loss(self):
        self.expect(judge(Measured(conns_bytes=(11.49,))), "conns.bytes", "kept")

    def test_a_gain_passes_and_is_told(self):
        self.expect(judge(Measured(pub_cpu_over_load=(8.0,))), "pub.cpu_over_load", "gained")

    def test_only_the_part_that_looks_lost_is_measured_again(self):
        measured = Measured(subs_bytes=(12.0, 10.0))
        self.expect(judge(measured), "subs.bytes", "did not repeat")
        self.assertEqual(measured.asked[len(regress.parts()):], ["subs"])

    def test_allocations_have_a_bound_whatever_the_baseline_says(self):
        many = regress.ALLOCATIONS_MAX + 1
        for base in (0, 1000):
            verdicts = judge(Measured(pub_allocations=(many,) * 3), make_baseline(pub_allocations=base))
            self.expect(verdicts, "pub.allocations", "LOST", True)
        self.expect(judge(Measured(pub_allocations=(many - 1,))), "pub.allocations", "kept")

    def test_latency_is_reported_and_never_decides(self):
        measured = Measured(rtt_p50=(1000.0,), rtt_p50_over_relay=(90.0,))
        self.expect(judge(measured), "rtt.p50", "reported")
        self.assertEqual(measured.asked, regress.parts())

    def test_another_machine_is_not_compared_but_where_asked_to(self):
        lost = {"rtt_cpu_over_relay": (20.0, 20.0, 20.0)}
        self.expect(judge(Measured(**lost), machine=OTHER), "rtt.cpu_over_relay", "another machine")
        verdicts = judge(Measured(**lost), machine=OTHER, is_strict=True)
        self.expect(verdicts, "rtt.cpu_over_relay", "LOST", True)

    def test_memory_is_compared_on_every_machine(self):
        self.expect(judge(Measured(conns_bytes=(12.0,) * 3), machine=OTHER), "conns.bytes", "LOST", True)


class Instructions(Judged):
    def test_machine_that_does_not_count_them_fails_nothing(self):
        verdicts = judge(Measured(), make_baseline(rtt_instructions=1000.0))
        self.expect(verdicts, "rtt.instructions", "not measured here")

    def test_baseline_without_them_fails_nothing(self):
        self.expect(judge(Measured(rtt_instructions=(1000.0,))), "rtt.instructions", "the baseline has none")

    def test_they_are_compared_where_both_have_them(self):
        baseline = make_baseline(rtt_instructions=1000.0)
        verdicts = judge(Measured(rtt_instructions=(1200.0,) * 3), baseline)
        self.expect(verdicts, "rtt.instructions", "LOST", True)

    def test_with_and_without_the_kernel_are_not_compared(self):
        baseline = make_baseline(rtt_instructions=1000.0)
        baseline["figures"]["rtt.instructions"]["note"] = "user"
        measured = Measured(rtt_instructions=(9000.0,), **{"rtt_instructions.note": ("user and kernel",)})
        self.assertFalse(judge(measured, baseline)["rtt.instructions"][1])


class Rounds(unittest.TestCase):
    """What is made of the rounds of midge-bench compare."""

    @staticmethod
    def run_of(cpu, load=20.0, p50=100, failed=None):
        return {"failed": failed, "server": {"cpu_per_message_ns": cpu, "cpu_ns": cpu},
                "load": {"cpu_ns": load}, "latency": p50 and {"p50_ns": p50}}

    def rounds(self, *servers, relay=10.0):
        return [{"a": one, "a-again": one, "floor": self.run_of(relay)} for one in servers]

    def test_ratios_are_taken_within_rounds(self):
        found = regress.cpu_figures("rtt", self.rounds(*(self.run_of(cpu) for cpu in (11.0, 12.0, 90.0))))
        self.assertEqual(found["rtt.cpu_over_relay"], 1.2)
        self.assertEqual(found["rtt.cpu_over_load"], 0.6)
        self.assertEqual((found["rtt.p50"], found["rtt.p50_over_relay"]), (0.1, 1.0))

    def test_failed_rounds_are_left_out_and_many_are_no_figure(self):
        good, bad = self.run_of(12.0), self.run_of(1.0, failed="a reply was lost")
        self.assertEqual(regress.cpu_figures("rtt", self.rounds(good, bad, good))["rtt.cpu_over_relay"], 1.2)
        self.assertIsNone(regress.cpu_figures("rtt", self.rounds(good, bad, bad)))
        self.assertIsNone(regress.cpu_figures("rtt", self.rounds(good, good, relay=None)))

    def test_publish_at_full_speed_has_no_latency(self):
        found = regress.cpu_figures("pub", self.rounds(self.run_of(12.0, p50=None)))
        self.assertEqual(set(found), {"pub.cpu_over_relay", "pub.cpu_over_load"})


class WithFile(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = os.path.join(self.directory.name, "baseline.json")


class Baseline(WithFile):
    def refuse(self, text, wanted):
        with open(self.path, "w", encoding="utf-8") as file:
            file.write(text)
        with self.assertRaises(regress.CannotTell) as caught:
            regress.read_baseline(self.path)
        self.assertIn(wanted, str(caught.exception))
        self.assertIn("--update", str(caught.exception))

    def damaged(self, name, **entry):
        baseline = make_baseline()
        baseline["figures"][name] = entry
        return json.dumps(baseline)

    def test_what_was_written_is_read(self):
        regress.write_baseline(self.path, make_baseline())
        self.assertEqual(regress.read_baseline(self.path), make_baseline())

    def test_committed_baseline_can_be_compared_with(self):
        self.assertEqual(set(regress.read_baseline(regress.BASELINE)["figures"]), set(regress.BY_NAME))

    def test_malformed_ones_are_refused(self):
        self.refuse("{", "not JSON")
        self.refuse("[]", "format")
        self.refuse(json.dumps({**make_baseline(), "format": 99}), "format")
        self.refuse(json.dumps({"format": regress.FORMAT, "machine": {}}), "figures")
        for value in ("fast", None, True, 0, -3):
            self.refuse(self.damaged("conns.bytes", value=value), "conns.bytes has no value")
        self.refuse(self.damaged("conns.bytes"), "conns.bytes has no value")
        self.refuse(self.damaged("conns.bites", value=3), "conns.bites is no figure")

    def test_missing_figure_is_named(self):
        baseline = make_baseline()
        del baseline["figures"]["subs.bytes"]
        self.refuse(json.dumps(baseline), "subs.bytes is not there")

    def test_missing_file_is_told(self):
        with self.assertRaises(regress.CannotTell) as caught:
            regress.read_baseline(self.path)
        self.assertIn("--update", str(caught.exception))

    def test_figure_that_was_not_measured_is_an_error(self):
        with self.assertRaises(regress.CannotTell) as caught:
            judge(Measured(conns_bytes=(None,)))
        self.assertIn("conns.bytes", str(caught.exception))


class Whole(WithFile):
    """The command, with made-up measurements instead of midge-bench."""

    class Bench:
        environment = {**MACHINE, "commit": "def"}

        def __init__(self, measured):
            self.measure = measured

    def check(self, measured, baseline=None):
        regress.write_baseline(self.path, baseline or make_baseline())
        with contextlib.redirect_stdout(io.StringIO()) as output:
            status = regress.check(self.Bench(measured), self.path, False, lambda text: None)
        return status, output.getvalue()

    def test_exit_status_and_table(self):
        status, text = self.check(Measured())
        self.assertEqual(status, 0)
        self.assertIn("No loss", text)
        status, text = self.check(Measured(subs_bytes=(12.0, 12.5, 13.0)))
        self.assertEqual(status, 1)
        self.assertIn("| 10 | 12, 12.5, 13 | +20 % | 11.5 | LOST |", text)
        self.assertIn("Lost, 3 times out of 3: subscription: resident memory", text)

    def test_baseline_that_was_better_by_a_fifth_is_a_loss(self):
        status, text = self.check(Measured(), make_baseline(pub_cpu_over_load=8.0))
        self.assertEqual(status, 1, text)

    def test_update_writes_medians_and_shows_old_and_new(self):
        regress.write_baseline(self.path, make_baseline())
        with contextlib.redirect_stdout(io.StringIO()) as output:
            regress.update(self.Bench(Measured(subs_bytes=(20.0, 90.0, 30.0))), self.path, 3,
                           lambda text: None)
        self.assertIn("| subs.bytes | 10 | 30 |", output.getvalue())
        new = regress.read_baseline(self.path)
        self.assertEqual(new["figures"]["subs.bytes"]["value"], 30)
        self.assertEqual(new["commit"], "def")

    def test_build_without_programs_cannot_tell(self):
        with contextlib.redirect_stderr(io.StringIO()) as errors:
            self.assertEqual(regress.main(["--build", self.directory.name]), 2)
        self.assertIn("is not built", errors.getvalue())


class Artificial(unittest.TestCase):
    """A server that does more for each message: it writes it into a log that nobody reads."""

    @staticmethod
    def measure(*flags):
        server = " ".join([os.path.join(BUILD, "midge-server"), *flags])
        return regress.Bench(BUILD, server, rounds=2, duration_ms=150).measure("rtt")

    def test_loss_is_found(self):
        before = self.measure()
        after = [self.measure("-V", "-l", "/dev/null") for _ in range(regress.TRIES)]
        for name in ("rtt.cpu_over_relay", "rtt.cpu_over_load"):
            key = name.replace(".", "_", 1)
            measured = Measured(**{key: [one[name] for one in after]})
            verdicts = judge(measured, make_baseline(**{key: before[name]}))
            self.assertEqual(verdicts[name], ("LOST", True), (before, after))


class Allocations(unittest.TestCase):
    """The counter, preloaded into Python, which takes large blocks from the allocator one by one."""

    def count(self, blocks):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "calls")
            environment = {**os.environ, "LD_PRELOAD": os.path.join(BUILD, "midge_allocations.so"),
                           "MIDGE_ALLOCATIONS": path}
            subprocess.run([sys.executable, "-I", "-S", "-c",
                            f"for i in range({blocks}): bytearray(100000)"], env=environment, check=True)
            with open(path, "rb") as file:
                return struct.unpack("=Q", file.read())[0]

    def test_each_call_counts_once(self):
        few, many = self.count(1000), self.count(11000)
        self.assertGreater(few, 1000)
        self.assertAlmostEqual(many - few, 10000, delta=100)

    def test_without_its_file_the_program_ends(self):
        environment = {**os.environ, "LD_PRELOAD": os.path.join(BUILD, "midge_allocations.so"),
                       "MIDGE_ALLOCATIONS": "/nonexistent/calls"}
        done = subprocess.run(["/bin/true"], env=environment, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1)
        self.assertIn("MIDGE_ALLOCATIONS", done.stderr)


if __name__ == "__main__":
    unittest.main()
