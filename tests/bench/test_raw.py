"""The load generator must not believe what a server says.

Method: a small broker in Python over a Unix socket, right in all but one point; midge-raw has to find the
point, say it, and fail. The relays must carry every byte, however the frames are cut.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
from fake_broker import FakeBroker, close_now, swap_last_digit  # noqa: E402

RAW = os.environ["MIDGE_RAW"]
FLOOR = os.environ["MIDGE_FLOOR"]


class Raw(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)

    def run_raw(self, mode, fault=None, split=False, before_pong=b"", arguments=()):
        broker = FakeBroker(self.directory.name, fault, split, before_pong)
        self.addCleanup(broker.close)
        return subprocess.run(
            [RAW, mode, "--url", broker.url, "--timeout-ms", "1000", "--json",
             *arguments], capture_output=True, text=True, timeout=60, check=False)

    def rtt(self, fault=None, **options):
        arguments = ["--count", "50", "--warmup", "5", *options.pop("arguments", ())]
        return self.run_raw("rtt", fault, arguments=arguments, **options)

    def assert_finds(self, done, text):
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn(text, done.stderr)
        self.assertEqual(done.stdout, "", "a failed run must not report figures")


class RoundTrip(Raw):
    def test_right_replies_are_counted(self):
        done = self.rtt()
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual((report["count"], report["warmup"], report["errors"]), (50, 5, 0))
        self.assertIsNone(report["p50_ns"], "50 samples are too few for a median")
        self.assertGreater(report["max_ns"], 0)

    def test_fixed_inbox_works_too(self):
        self.assertEqual(self.rtt(arguments=["--inbox", "fixed"]).returncode, 0)

    def test_frames_may_be_cut_anywhere(self):
        done = self.rtt(split=True)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_wrong_payload_is_found(self):
        self.assert_finds(self.rtt(lambda _, frame: frame[:-3] + b"y\r\n",
                                   arguments=["--size", "40"]), "wrong reply")

    def test_reply_to_another_request_is_found(self):
        self.assert_finds(self.rtt(lambda _, frame: swap_last_digit(frame)), "request 24: ")

    def test_wrong_reply_subject_is_found(self):
        self.assert_finds(self.rtt(lambda _, frame: frame.replace(b".00000018 ", b".00000099 ")),
                          "wrong reply")

    def test_lost_reply_is_found(self):
        self.assert_finds(self.rtt(lambda *_: b""), "reply lost: nothing within the timeout")

    def test_closed_connection_is_found(self):
        self.assert_finds(self.rtt(close_now), "reply lost: connection closed")

    def test_doubled_reply_is_found(self):
        self.assert_finds(self.rtt(lambda _, frame: frame * 2), "an earlier reply came twice")

    def test_doubled_last_reply_is_found(self):
        done = self.rtt(lambda _, frame: frame * 2, arguments=["--count", "20"])
        self.assert_finds(done, "message instead of PONG")

    def test_error_from_the_server_is_found(self):
        self.assert_finds(self.rtt(lambda *_: b"-ERR 'Stale Connection'\r\n"), "Stale Connection")

    def test_ping_from_the_server_is_answered_and_skipped(self):
        done = self.rtt(lambda _, frame: b"PING\r\n+OK\r\nINFO {}\r\n" + frame)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_size_that_does_not_match_is_found(self):
        self.assert_finds(self.rtt(lambda _, frame: frame.replace(b" 16\r\n", b" 15\r\n")),
                          "payload does not end where its size says")

    def test_options_out_of_range_are_refused(self):
        for bad in (["--count", "0"], ["--count", "-1"], ["--count", "5x"], ["--size", "15"],
                    ["--inbox", "other"], ["--url", "4222"], ["--cpu", ""], ["extra"]):
            done = subprocess.run([RAW, "rtt", "--url", "tcp:1", *bad], capture_output=True,
                                  text=True, check=False)
            self.assertEqual(done.returncode, 1, bad)
            self.assertIn("usage:", done.stderr, bad)


class Publish(Raw):
    load = ["--count", "200", "--publishers", "2", "--subscribers", "2", "--size", "32"]

    def test_every_subscriber_gets_every_message(self):
        done = self.run_raw("pub", arguments=self.load)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["delivered"], 800)

    def test_window_smaller_than_a_batch_does_not_hang(self):
        done = self.run_raw("pub", arguments=[*self.load, "--window", "1"])
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_lost_message_is_found(self):
        self.assert_finds(self.run_raw("pub", lambda *_: b"", arguments=self.load),
                          "message lost, doubled or out of order")

    def test_doubled_message_is_found(self):
        self.assert_finds(self.run_raw("pub", lambda _, frame: frame * 2, arguments=self.load),
                          "message lost, doubled or out of order")

    def test_closed_fast_subscriber_is_found(self):
        self.assert_finds(self.run_raw("pub", close_now, arguments=self.load),
                          "closed by the server")

    def test_stalled_subscriber_that_is_not_closed_is_reported_so(self):
        # So few that they fit into the socket: this broker blocks where a real one would not.
        done = self.run_raw("pub", arguments=[*self.load, "--stalled", "1", "--count", "50"])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["stalled_closed"], 0)


    def test_wrong_byte_beyond_the_number_is_found(self):
        self.assert_finds(self.run_raw("pub", lambda _, frame: frame[:-3] + b"y\r\n", arguments=self.load),
                          "message is not one of ours")

    def test_warm_up_is_not_counted_and_the_rate_is_reported(self):
        done = self.run_raw("pub", arguments=[*self.load, "--warmup", "20", "--rate", "10000"])
        self.assertEqual(done.returncode, 0, done.stderr)
        report = json.loads(done.stdout)
        self.assertEqual((report["published"], report["delivered"]), (400, 800))
        self.assertLess(report["published_per_s"], 11000)


class Requests(Raw):
    load = ["--connections", "3", "--in-flight", "4", "--count", "60", "--warmup", "10", "--size", "32"]

    def req(self, fault=None, arguments=()):
        return self.run_raw("req", fault, arguments=[*self.load, *arguments])

    def test_right_replies_are_counted_at_full_speed_and_at_a_rate(self):
        for extra in ([], ["--rate", "1000"]):
            self.directory = tempfile.TemporaryDirectory()
            self.addCleanup(self.directory.cleanup)
            done = self.req(arguments=extra)
            self.assertEqual(done.returncode, 0, done.stderr)
            report = json.loads(done.stdout)
            self.assertEqual((report["count"], report["errors"]), (60, 0))

    def test_wrong_payload_is_found(self):
        self.assert_finds(self.req(lambda _, frame: frame[:-3] + b"y\r\n"), "wrong reply")

    def test_lost_reply_is_found(self):
        self.assert_finds(self.req(lambda *_: b""), "midge-raw: request ")

    def test_doubled_reply_is_found(self):
        self.assert_finds(self.req(lambda _, frame: frame * 2), "midge-raw: request ")

    def test_closed_connection_is_found(self):
        # Whether reading or sending sees it first is chance.
        self.assert_finds(self.req(close_now), "midge-raw: request ")


class Many(Raw):
    def conns(self, fault=None):
        return self.run_raw("conns", fault, arguments=["--connections", "30", "--idle-ms", "1"])

    def subs(self, fault=None):
        return self.run_raw("subs", fault, arguments=["--subscriptions", "50", "--idle-ms", "1", "--count",
                                                      "100"])

    def test_connections_are_counted(self):
        done = self.conns()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["connections"], 30)

    def test_subscriptions_get_their_messages(self):
        done = self.subs()
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreaterEqual(json.loads(done.stdout)["published"], 100)

    def test_lost_message_is_found(self):
        self.assert_finds(self.conns(lambda *_: b""), "connection 24 is lost or got a wrong message")

    def test_doubled_message_is_found(self):
        self.assert_finds(self.conns(lambda _, frame: frame * 2), "connection 24 ")

    def test_message_lost_to_a_subscription_is_found(self):
        self.assert_finds(self.subs(lambda *_: b""), "lost")

    def test_message_with_another_sid_is_found(self):
        self.assert_finds(self.subs(lambda _, frame: re.sub(rb" (\d+) 16\r", rb" 1\1 16\r", frame)),
                          "wrong sid")

    def test_message_doubled_to_a_subscription_is_found(self):
        self.assert_finds(self.subs(lambda _, frame: frame * 2), "doubled or wrong")


class Relay(unittest.TestCase):
    def relayed(self, engine, size, count):
        with tempfile.TemporaryDirectory() as directory:
            path = os.path.join(directory, "floor.sock")
            with subprocess.Popen([FLOOR, "--engine", engine, "--listen", f"unix:{path}"]) as floor:
                try:
                    done = subprocess.run(
                        [RAW, "rtt", "--relay", f"unix:{path}", "--count", str(count), "--warmup",
                         "0", "--size", str(size), "--json", "--server-pid", str(floor.pid)],
                        capture_output=True, text=True, timeout=60, check=False)
                    self.assertEqual(done.returncode, 0, done.stderr)
                    self.assertEqual(floor.wait(10), 0, "a relay ends when its peers are gone")
                finally:
                    if floor.poll() is None:
                        floor.kill()
        return json.loads(done.stdout)

    def test_small_requests_pass_and_cost_cpu_time(self):
        for engine in ("epoll", "io_uring"):
            with self.subTest(engine=engine):
                report = self.relayed(engine, 16, 500)
                self.assertGreater(report["server_cpu_ns"], 0)

    def test_requests_larger_than_every_buffer_pass(self):
        for engine in ("epoll", "io_uring"):
            with self.subTest(engine=engine):
                self.relayed(engine, 1024 * 1024, 5)


if __name__ == "__main__":
    unittest.main()
