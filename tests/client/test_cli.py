"""The `midge` command as people and scripts use it: every subcommand against a real server, every exit
status, JSON that parses, contexts that the `nats` command wrote, and the `nats` command on the other side.

    test_cli.py midge|nats-server [TEST...]
"""

import base64
import fcntl
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "interop"))
import harness  # noqa: E402

TIMEOUT_S = 20
MIDGE = os.environ.get("MIDGE_CLI") or sys.exit("fail: MIDGE_CLI is not set")
NATS = os.environ.get("NATS_CLI")
KIND = sys.argv.pop(1)
OK, ERROR, USAGE, NO_RESPONDERS, TIMED_OUT, CONNECTION = range(6)
COMMANDS = ("pub", "sub", "req", "reply", "rtt", "service", "server")


class Case(unittest.TestCase):
    flags = []  # of the server

    @classmethod
    def setUpClass(cls):
        cls.server = harness.Server(harness.find_server(KIND), *cls.flags)
        cls.server.start()
        cls.home = tempfile.TemporaryDirectory()
        outside = {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}
        cls.environment = {**outside, "NATS_URL": cls.server.url, "XDG_CONFIG_HOME": cls.home.name,
                           "TERM": "dumb"}

    @classmethod
    def tearDownClass(cls):
        cls.server.kill()
        cls.home.cleanup()

    def midge(self, *arguments, status=OK, stdin=b"", **environment):
        """Run it to its end. Returns what it printed; standard error is in self.said."""
        done = subprocess.run([MIDGE, *arguments], input=stdin, capture_output=True, timeout=TIMEOUT_S,
                              env={**self.environment, **environment})
        self.said = done.stderr.decode()
        self.assertEqual(done.returncode, status, f"{arguments}: {done.stdout} {done.stderr}")
        return done.stdout.decode()

    def begin(self, program, *arguments, stdin=subprocess.DEVNULL):
        """Start one that stays, and have it ended whatever comes."""
        process = subprocess.Popen([program, *arguments], stdin=stdin, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, env=self.environment)
        watchdog = threading.Timer(3 * TIMEOUT_S, process.kill)  # who waits for its output reads to the end
        watchdog.start()

        def end():
            watchdog.cancel()
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

        self.addCleanup(end)
        return process

    def begin_responder(self, subject, *arguments):
        """One that answers; it is there when this returns."""
        process = self.begin(MIDGE, "reply", subject, *arguments)
        self.wait_for_interest(subject.replace("*", "ready"), process)
        return process

    def wait_for_interest(self, subject, process):
        for _ in range(200):
            done = subprocess.run([MIDGE, "req", subject, "ready?", "--timeout", "2s"], env=self.environment,
                                  capture_output=True, timeout=TIMEOUT_S)
            if done.returncode in (OK, TIMED_OUT):
                return
            self.assertEqual(done.returncode, NO_RESPONDERS, done.stderr)
            self.assertIsNone(process.poll(), "it has ended")
            time.sleep(0.02)
        self.fail("nobody serves it")

    def read_line(self, process):
        return process.stdout.readline().decode().rstrip("\n")


class Help(Case):
    def test_every_command_has_a_page_with_an_example(self):
        for command in COMMANDS:
            page = self.midge(command, "--help")
            self.assertEqual(page, self.midge("help", command))
            self.assertIn(f"usage: midge {command} ", page)
            self.assertIn(f"\n  midge {command}", page)
            self.assertIn("--server URL", page)
            self.assertLessEqual(max(map(len, page.splitlines())), 100)

    def test_the_first_page_names_them_all(self):
        page = self.midge("--help")
        for command in COMMANDS:
            self.assertIn(f"\n  {command} ", page)
        self.assertEqual(self.midge(status=USAGE), "")
        self.assertEqual(self.said, page)
        self.assertRegex(self.midge("--version"), r"^midge v\d+\.\d+\.\d+\n$")

    def test_what_cannot_be_says_why_and_where_help_is(self):
        for arguments, why in (
            (("pub",), "SUBJECT is missing"),
            (("req", "a", "b", "c"), "'c' is one word too many"),
            (("sub", "a", "--count", "0"), "--count takes a number from 1 on, not '0'"),
            (("sub", "a", "--count", "-1"), "--count takes a number"),
            (("sub", "a", "--timeout", "5 minutes"), "--timeout takes a time such as"),
            (("req", "a", "--nonsense"), "there is no flag --nonsense"),
            (("req", "a", "-xt"), "there is no flag -x"),
            (("server", "info", "-c2"), "there is no flag -c"),
            (("req", "a", "--raw=yes"), "--raw takes no value"),
            (("req", "a", "--echo"), "there is no flag --echo"),
            (("req", "a", "--timeout"), "--timeout needs a value: TIME"),
            (("pub", "a", "b", "-H", "no colon"), "--header takes NAME:VALUE"),
            (("pub", "a", "b", "-H", "a b:c"), "cannot be a header"),
            (("pub", "a", "b", "-H", "a:c\r\nd:e"), "cannot be a header"),
            (("reply", "a"), "what is the answer?"),
            (("sub", "a", "--raw", "--json"), "it excludes --json"),
            (("sub", "a", "--raw", "--headers-only"), "it excludes --headers-only"),
            (("reply", "a", "b", "--echo"), "one word too many"),
            (("pub", "a", "b", "--lines"), "one word too many"),
            (("server", "x"), "there is no 'x'"),
            (("service", "a"), "NAME or SUBJECT is missing"),
            (("service", "a", "b"), "what is the answer?"),
            (("service", "a.b", "c", "d"), "there is no service 'a.b'"),
            (("service", "a", "b", "c", "--release", "one"), "in version 'one'"),
            (("service", "a", "b", "c", "--endpoint", "x y"), "no endpoint is called 'x y'"),
            (("pub", "a", "b", "--context", "none"), "cannot read context none"),
            (("pub", "a", "b", "--context", "../x"), "cannot be the name of a context"),
            (("pub", "a", "b", "--nkey", "/nowhere"), "/nowhere: No such file"),
            (("pub", "a", "b", "--password", "x"), "--password needs --user"),
            (("pub", "a", "b", "--user", "x", "--token", "y"), "more than one of user, token"),
            (("pub", "a", "b", "-s", "http://x"), "the scheme is none of nats, tls, unix"),
        ):
            self.midge(*arguments, status=USAGE)
            self.assertIn(why, self.said)
            self.assertIn(f"`midge {arguments[0]} --help`", self.said)
        for arguments in (("nonsense",), ("help", "nonsense"), ("-h", "nonsense"), ("-s", "x", "nonsense")):
            self.midge(*arguments, status=USAGE)
            self.assertIn("no command 'nonsense'", self.said)
        self.midge("--nonsense", "pub", "a", "b", status=USAGE)
        self.assertIn("midge: there is no flag --nonsense", self.said)

    def test_flags_may_stand_before_the_command_and_anywhere_behind_it(self):
        wanted = {"subject": "a", "count": 2, "bytes": 2}
        for line in ("--json -c2 pub a b", "--json pub -c2 a b", "pub a --count=2 b --json",
                     "--count 2 pub --json -- a b"):
            self.assertEqual(json.loads(self.midge(*line.split())), wanted)
        self.assertIn("usage: midge pub ", self.midge("-s", "nats://127.0.0.1:1", "pub", "--help"))


class Messages(Case):
    def test_pub_and_sub(self):
        sub = self.begin(MIDGE, "sub", "--count", "4", "a.>", "b")
        self.wait_until_subscribed(sub, "a.is.it.there")
        self.assertEqual(self.midge("pub", "a.x", "one"), "")
        self.midge("pub", "b", stdin=b"two")
        self.midge("pub", "a.y", "-", "-H", "Key:v1", "--header", "Key: v2", "--reply", "r", stdin=b"three")
        out, _ = sub.communicate(timeout=TIMEOUT_S)
        self.assertEqual(sub.returncode, OK)
        self.assertEqual(out.decode().split("\n", 2)[2],
                         "[2] a.x 3 bytes\none\n[3] b 3 bytes\ntwo\n"
                         "[4] a.y reply r 5 bytes\nKey: v1\nKey: v2\n\nthree\n")

    def wait_until_subscribed(self, sub, subject):
        """Have one message arrive, and no more however slow the machine is: it asks for an answer, and while
        nobody has subscribed the server says so before its PONG. Nobody else may have this subject."""
        with socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT_S) as probe:
            probe.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB r 1\r\n')
            for _ in range(1000):
                probe.sendall(b"PUB %b r 6\r\nready?\r\nPING\r\n" % subject.encode())
                heard = b""
                while not heard.endswith(b"PONG\r\n"):
                    got = probe.recv(65536)
                    self.assertNotEqual(got, b"")
                    heard += got
                if b"NATS/1.0 503" not in heard:
                    return
                self.assertIsNone(sub.poll())
                time.sleep(0.02)
        self.fail("it does not subscribe")

    def test_raw_and_json(self):
        flags = (("--raw",), ("--json",), ("--json", "--headers-only"))
        subs = [self.begin(MIDGE, "sub", *words, "--count", "2", f"c.{i}") for i, words in enumerate(flags)]
        for i, sub in enumerate(subs):
            self.wait_until_subscribed(sub, f"c.{i}")
            self.midge("pub", f"c.{i}", "x", "-H", "K:ü")
        raw, whole, lean = (sub.communicate(timeout=TIMEOUT_S)[0].splitlines() for sub in subs)
        self.assertEqual(raw, [b"ready?", b"x"])
        self.assertEqual([json.loads(line) for line in whole],
                         [{"subject": "c.1", "reply": "r", "bytes": 6, "payload": "ready?"},
                          {"subject": "c.1", "bytes": 1, "payload": "x", "headers": {"K": ["ü"]}}])
        self.assertEqual(json.loads(lean[1]), {"subject": "c.2", "bytes": 1, "headers": {"K": ["ü"]}})

    def test_payloads_that_are_no_text_are_base64_in_json(self):
        self.begin_responder("bytes", "--echo")
        for payload, text in ((b"\xff", "/w=="), (b"\xff\xfe", "//4="), (b"\xff\xfe\x00", "//4A")):
            reply = json.loads(self.midge("req", "bytes", "--json", stdin=payload))
            self.assertEqual(reply["payload_base64"], text)
            self.assertNotIn("payload", reply)
        reply = json.loads(self.midge("req", "bytes", "--json", stdin=b"a\x00b"))
        self.assertEqual(reply["payload"], "a\x00b")

    def test_subjects_that_are_no_text_are_base64_in_json(self):
        self.assertEqual(json.loads(self.midge("pub", b"caf\xe9", "x", "--json")),
                         {"subject_base64": "Y2Fm6Q==", "count": 1, "bytes": 1})

    def test_long_names_of_headers_are_whole_in_json(self):
        sub = self.begin(MIDGE, "sub", "--json", "p")
        self.wait_until_subscribed(sub, "p")
        with socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT_S) as other:
            for length in (1024, 1025):
                headers = b"NATS/1.0\r\n" + length * b"n" + b":v\r\n\r\n"
                other.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nHPUB p %d %d\r\n%b\r\n' %
                              (len(headers), len(headers), headers))
            other.sendall(b"PING\r\n")
            self.assertEqual(json.loads(self.read_line(sub))["payload"], "ready?")
            self.assertEqual(json.loads(self.read_line(sub))["headers"], {1024 * "n": ["v"]})
            self.assertEqual(base64.b64decode(json.loads(self.read_line(sub))["headers_base64"]), headers)

    def test_headers_that_are_no_text_are_base64_in_json(self):
        self.begin_responder("latin", "--echo", "-H", b"Key:caf\xe9")
        reply = json.loads(self.midge("req", "latin", "x", "--json"))
        self.assertEqual(base64.b64decode(reply["headers_base64"]), b"NATS/1.0\r\nKey: caf\xe9\r\n\r\n")
        self.assertNotIn("headers", reply)

    def test_what_cannot_be_written_is_an_error(self):
        for words in ("server info", "pub a b --json", "--help", "pub --help", "help pub", "--version"):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([MIDGE, *words.split()], stdout=full, stderr=subprocess.PIPE,
                                      env=self.environment, timeout=TIMEOUT_S)
            self.assertEqual(done.returncode, ERROR, words)
            self.assertIn(b"standard output: No space left", done.stderr)

    def test_closed_descriptors_go_to_nothing_else(self):
        def run(redirection, *arguments):
            return subprocess.run(["sh", "-c", f'exec "$0" "$@" {redirection}', MIDGE, *arguments],
                                  capture_output=True, env=self.environment, timeout=TIMEOUT_S)

        for arguments in (("server", "info"), ("pub", "o", "x", "--json")):
            done = run(">&-", *arguments)
            self.assertEqual((done.returncode, done.stderr),
                             (ERROR, b"midge: standard output: Bad file descriptor\n"))
        done = run("<&-", "pub", "o")
        self.assertEqual((done.returncode, done.stderr),
                         (ERROR, b"midge: standard input: Bad file descriptor\n"))
        sub = self.begin(MIDGE, "sub", "--raw", "--count", "2", "o")
        self.wait_until_subscribed(sub, "o")
        self.assertEqual(run("<&- >&- 2>&-", "pub", "o", "x").returncode, OK)
        self.assertEqual(sub.communicate(timeout=TIMEOUT_S)[0], b"ready?\nx\n")

    def test_lines_and_count(self):
        self.assertEqual(json.loads(self.midge("pub", "d", "--lines", "--json", stdin=b"one\ntwo\n\nlast")),
                         {"subject": "d", "count": 4, "bytes": 10})
        self.assertEqual(json.loads(self.midge("pub", "d", "abc", "--count", "100000", "--json")),
                         {"subject": "d", "count": 100000, "bytes": 300000})
        paced = self.midge("pub", "d", "", "--count", "3", "--interval", "10ms", "--json")
        self.assertEqual(json.loads(paced), {"subject": "d", "count": 3, "bytes": 0})

    def test_a_line_leaves_before_the_next_one_is_there(self):
        sub = self.begin(MIDGE, "sub", "--raw", "--count", "4", "g")
        self.wait_until_subscribed(sub, "g")
        pub = self.begin(MIDGE, "pub", "g", "--lines", stdin=subprocess.PIPE)
        self.assertEqual(self.read_line(sub), "ready?")
        for line in ("one", "two"):
            pub.stdin.write(f"{line}\n".encode())
            pub.stdin.flush()
            self.assertEqual(self.read_line(sub), line)
        pub.stdin.write(b"no newline")
        pub.stdin.close()
        self.assertEqual(self.read_line(sub), "no newline")
        self.assertEqual(pub.wait(TIMEOUT_S), OK)

    def test_lines_of_any_length(self):
        lines = ["x" * length for length in (0, 1, 65535, 65536, 65537, 200000, 1)]
        sub = self.begin(MIDGE, "sub", "--raw", "--count", str(len(lines) + 1), "i")
        self.wait_until_subscribed(sub, "i")
        self.midge("pub", "i", "--lines", stdin="\n".join(lines).encode())
        self.assertEqual(sub.communicate(timeout=TIMEOUT_S)[0].decode().split("\n"), ["ready?", *lines, ""])

    def test_an_interrupt_ends_the_wait_for_input(self):
        for arguments, status in ((("pub", "j", "--lines"), OK), (("pub", "j", "-"), -signal.SIGINT)):
            pub = self.begin(MIDGE, *arguments, stdin=subprocess.PIPE)
            pub.stdin.write(b"x\n")
            pub.stdin.flush()
            self.wait_until_read(pub.stdin)
            pub.send_signal(signal.SIGINT)
            self.assertEqual(pub.wait(TIMEOUT_S), status)
            pub.stdin.close()
            self.assertEqual(pub.stderr.read(), b"")

    def wait_until_read(self, pipe):
        for _ in range(1000):
            if fcntl.ioctl(pipe, termios.FIONREAD, b"\0\0\0\0") == b"\0\0\0\0":
                return
            time.sleep(0.01)
        self.fail("it does not read")

    def test_a_count_that_servers_cannot_read(self):
        for count in ("1000000000", str(2**64 - 1)):
            sub = self.begin(MIDGE, "sub", "--raw", "--count", count, f"m.{count}")
            self.wait_until_subscribed(sub, f"m.{count}")
            self.assertEqual(self.read_line(sub), "ready?")
            self.begin_responder(f"n.{count}", "x", "--count", count)
        self.midge("sub", "m", "--count", str(2**64), status=USAGE)

    def test_sub_ends_when_nothing_comes(self):
        self.assertEqual(self.midge("sub", "nothing", "--timeout", "0.1", status=TIMED_OUT), "")

    def test_sub_ends_well_when_it_is_interrupted(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            sub = self.begin(MIDGE, "sub", "e")
            self.wait_until_subscribed(sub, "e")
            sub.send_signal(number)
            self.assertEqual(sub.wait(TIMEOUT_S), OK)

    def test_what_has_come_before_an_interrupt_is_handled(self):
        for count, arguments in ((20, ("sub", "--raw", "k")), (21, ("reply", "--raw", "k", "x"))):
            process = self.begin(MIDGE, *arguments)
            if arguments[0] == "sub":
                self.wait_until_subscribed(process, "k")
                self.read_line(process)
            else:
                self.wait_for_interest("k", process)
            process.send_signal(signal.SIGSTOP)
            self.midge("pub", "k", "one", "--count", "20")
            process.send_signal(signal.SIGINT)
            process.send_signal(signal.SIGCONT)
            out, said = process.communicate(timeout=TIMEOUT_S)
            self.assertEqual((process.returncode, said), (OK, b""))
            self.assertEqual(len(out.split()), count)

    def test_a_closed_pipe_ends_it(self):
        sub = self.begin(MIDGE, "sub", "f")
        self.wait_until_subscribed(sub, "f")
        sub.stdout.close()
        for _ in range(200):
            self.midge("pub", "f", "x")
            if sub.poll() is not None:
                break
        self.assertEqual(sub.wait(TIMEOUT_S), -signal.SIGPIPE)
        sub.stdout = open(os.devnull, "rb")

    def test_subjects_that_cannot_be(self):
        for arguments in (("pub", "a b", "x"), ("pub", "a.*", "x"), ("sub", "a..b"), ("req", "", "x"),
                          ("pub", "a\r\nPUB b 0\r\n", "x"), ("sub", "a", "--queue", "b c")):
            self.midge(*arguments, status=USAGE)
        self.midge("pub", "a" * 5000, "x", status=USAGE)
        self.assertRegex(self.said, "^midge: a{200}…: the subject .* is not valid .*at most 4,000 bytes")
        self.midge("pub", "a", stdin=b"x" * (2 * 1024 * 1024), status=ERROR)
        self.assertIn("longer than the server takes", self.said)


class Requests(Case):
    def test_the_first_minute(self):
        reply = self.begin_responder("greet.*", "--echo")
        self.assertEqual(self.midge("req", "greet.joe", "hi"), "hi\n")
        reply.send_signal(signal.SIGINT)
        out, _ = reply.communicate(timeout=TIMEOUT_S)
        self.assertEqual(reply.returncode, OK)
        self.assertRegex(out.decode(), r"\[2\] greet\.joe reply _INBOX\.\S+ 2 bytes\nhi\n$")

    def test_three_failures_have_three_statuses(self):
        self.midge("req", "nobody", "hi", status=NO_RESPONDERS)
        self.assertIn("no responders", self.said)
        sub = self.begin(MIDGE, "sub", "silent")
        self.wait_for_interest("silent", sub)
        self.midge("req", "silent", "hi", "--timeout", "50ms", status=TIMED_OUT)
        self.assertEqual(self.said, "midge: silent: no answer in time (--timeout says how long to wait)\n")
        self.midge("req", "x", "hi", "-s", "nats://127.0.0.1:1", status=CONNECTION)
        self.assertRegex(self.said, r"127\.0\.0\.1:1: .* \(where one is: --server, ")
        self.midge("rtt", "-s", "unix:///nowhere.sock", status=CONNECTION)
        self.midge("rtt", "--creds", "/nowhere.creds", status=CONNECTION)
        self.assertIn("/nowhere.creds", self.said)

    def test_an_answer_with_headers(self):
        self.begin_responder("h", "fixed answer", "-H", "From:me")
        self.assertEqual(self.midge("req", "h", "x"), "From: me\n\nfixed answer\n")
        self.assertEqual(self.midge("req", "h", "x", "--raw"), "fixed answer\n")
        reply = json.loads(self.midge("req", "h", "x", "--json"))
        self.assertEqual((reply["headers"], reply["payload"]), ({"From": ["me"]}, "fixed answer"))

    def test_many_replies(self):
        for name in ("one", "two", "three"):
            self.begin_responder("many", name, "--queue", name)
        # The second and third were waited for by the answers of the first: ask until all are there.
        for _ in range(100):
            found = self.midge("req", "many", "x", "--replies", "3", "--timeout", "5s", "--silence", "300ms")
            if len(found.split()) == 3:
                break
        self.assertEqual(sorted(found.split()), ["one", "three", "two"])
        self.assertEqual(len(self.midge("req", "many", "x", "--replies", "2").split()), 2)
        found = self.midge("req", "many", "x", "--replies", "0", "--silence", "300ms")
        self.assertEqual(len(found.split()), 3)
        self.midge("req", "none", "x", "--replies", "0", status=NO_RESPONDERS)

    def test_repliers_share_the_work(self):
        counts = [self.begin_responder("shared", name) for name in ("A", "B")]
        found = set()
        for _ in range(200):
            found.add(self.midge("req", "shared", "x"))
            if len(found) == 2:
                break
        self.assertEqual(found, {"A\n", "B\n"})
        self.assertEqual([process.poll() for process in counts], [None, None])

    def test_reply_ends_after_count(self):
        reply = self.begin(MIDGE, "reply", "few", "x", "--count", "2")
        self.wait_for_interest("few", reply)
        self.assertEqual(self.midge("req", "few", "x"), "x\n")
        self.assertEqual(reply.wait(TIMEOUT_S), OK)
        self.midge("req", "few", "x", status=NO_RESPONDERS)

    def test_the_rest_of_a_group_gets_what_is_over_count(self):
        reply = self.begin(MIDGE, "reply", "l", "x", "--count", "3", "--queue", "group")
        self.wait_for_interest("l", reply)
        with socket.create_connection(("127.0.0.1", self.server.port), TIMEOUT_S) as other:
            other.sendall(b'CONNECT {"verbose":false}\r\nSUB l group 1\r\nSUB answer 2\r\n')
            other.sendall(50 * b"PUB l answer 1\r\n?\r\n")
            heard = b""
            # Each of the 50 comes here, or its answer does.
            while heard.count(b"\r\n?\r\n") + heard.count(b"\r\nx\r\n") < 50:
                got = other.recv(65536)
                self.assertNotEqual(got, b"")
                heard += got
        self.assertEqual(reply.wait(TIMEOUT_S), OK)
        self.assertEqual(heard.count(b"\r\nx\r\n"), 2)

    def test_inbox_prefix(self):
        reply = self.begin_responder("prefixed", "--echo", "--json")
        self.midge("req", "prefixed", "x", "--inbox-prefix", "mine.own")
        self.read_line(reply)
        self.assertRegex(json.loads(self.read_line(reply))["reply"], r"^mine\.own\.")


class Service(Case):
    def test_it_answers_and_is_listed(self):
        service = self.begin(MIDGE, "service", "greeter", "hello.*", "hello", "--release", "1.2.3", "--raw",
                             "--description", "says hello", "-H", "By:greeter")
        self.wait_for_interest("hello.ready", service)
        self.assertEqual(self.midge("req", "hello.joe", "hi"), "By: greeter\n\nhello\n")
        found = json.loads(self.midge("req", "$SRV.INFO.greeter", "", "--raw"))
        self.assertEqual((found["version"], found["description"]), ("1.2.3", "says hello"))
        self.assertEqual([(each["name"], each["subject"]) for each in found["endpoints"]],
                         [("default", "hello.*")])
        found = json.loads(self.midge("req", "$SRV.STATS.greeter", "", "--raw"))
        self.assertEqual(found["endpoints"][0]["num_requests"], 2)
        if NATS is not None:
            done = subprocess.run([NATS, "service", "list"], env=self.environment, capture_output=True,
                                  timeout=TIMEOUT_S)
            self.assertRegex(done.stdout.decode(), r"greeter\W+1\.2\.3\W")
        service.send_signal(signal.SIGINT)
        out, said = service.communicate(timeout=TIMEOUT_S)
        self.assertEqual((service.returncode, out, said), (OK, b"ready?\nhi\n", b""))
        self.midge("req", "hello.joe", "hi", status=NO_RESPONDERS)
        self.midge("req", "$SRV.PING.greeter", "", status=NO_RESPONDERS)

    def test_those_of_one_name_share_the_requests(self):
        for _ in range(2):
            service = self.begin(MIDGE, "service", "twin", "twin", "--echo", "--endpoint", "it")
            self.wait_for_interest("twin", service)
        for _ in range(100):
            found = self.midge("req", "$SRV.PING.twin", "", "--replies", "2", "--timeout", "5s").splitlines()
            if len(found) == 2:
                break
        self.assertEqual(len({json.loads(line)["id"] for line in found}), 2)
        many = self.midge("req", "twin", "x", "--replies", "0", "--silence", "200ms")
        self.assertEqual(many, "x\n")


HOSTILE = "\x1b]0;\u009b\x07ü"  # what a server may not do to a terminal, and a letter


class Hostile(unittest.TestCase):
    def run_at_terminal(self, answer, *arguments):
        """Run it with a server that names itself HOSTILE and says `answer` to PING. Returns what a terminal
        shows."""
        info = json.dumps({"server_id": "x", "server_name": HOSTILE, "version": "2.15.2", "headers": True,
                           "max_payload": 1024})
        with socket.create_server(("127.0.0.1", 0)) as listener:
            master, slave = pty.openpty()
            self.addCleanup(os.close, master)
            url = f"nats://127.0.0.1:{listener.getsockname()[1]}"
            process = subprocess.Popen([MIDGE, *arguments, "-s", url], stdin=subprocess.DEVNULL,
                                       stdout=slave, stderr=slave)
            os.close(slave)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            listener.settimeout(TIMEOUT_S)
            conn = listener.accept()[0]
        with conn:
            conn.settimeout(TIMEOUT_S)
            conn.sendall(f"INFO {info}\r\n".encode())
            while heard := conn.recv(65536):
                conn.sendall(heard.count(b"PING\r\n") * answer)
            process.wait(TIMEOUT_S)
        return os.read(master, 65536).decode()

    def test_the_terminal_gets_no_control_characters_of_a_server(self):
        shown = self.run_at_terminal(b"PONG\r\n", "server", "info")
        self.assertRegex(shown, r"name +\\x1b\]0;\\xc2\\x9b\\x07ü\r\n")
        shown = self.run_at_terminal(b"-ERR '%b'\r\n" % HOSTILE.encode(), "rtt")
        self.assertIn("]0;", shown)
        for character in "\x1b\u009b\x07":
            self.assertNotIn(character, shown)


class Server(Case):
    def test_rtt(self):
        found = json.loads(self.midge("rtt", "--count", "50", "--json"))
        self.assertEqual((found["url"], found["count"]), (self.server.url, 50))
        self.assertTrue(0 < found["min_us"] <= found["p50_us"] <= found["p99_us"] <= found["max_us"], found)
        self.assertIn("50 round trips", self.midge("rtt", "-c", "50"))

    def test_info(self):
        found = json.loads(self.midge("server", "info", "--json"))
        self.assertEqual((found["version"], found["max_payload"]), ("2.15.2", 1048576))
        self.assertTrue(found["headers"])
        self.assertEqual(found["midge"] != "", KIND == "midge")
        self.assertRegex(self.midge("server", "info"), r"largest message +1048576 bytes\n")


class Identity(Case):
    """Who connects, as flags, environment and contexts say."""

    flags = ["--user", "joe", "--pass", "secret"]

    def get_in(self, *arguments, **environment):
        self.midge("rtt", "-c", "1", *arguments, **environment)

    def stay_out(self, *arguments, **environment):
        self.midge("rtt", "-c", "1", *arguments, status=CONNECTION, **environment)
        self.assertRegex(self.said, r"refused the credentials.* \(who connects: --user and ")

    def test_flags_and_environment(self):
        self.get_in("--user", "joe", "--password", "secret")
        self.get_in(NATS_USER="joe", NATS_PASSWORD="secret")
        self.get_in("--user", "joe", NATS_PASSWORD="secret", NATS_TOKEN="x", NATS_CREDS="/nowhere")
        self.get_in("-s", self.server.url.replace("//", "//joe:secret@"))
        self.stay_out()
        self.stay_out("--user", "joe", "--password", "wrong", NATS_PASSWORD="secret")
        self.stay_out("--token", "x", NATS_USER="joe", NATS_PASSWORD="secret")
        self.stay_out(NATS_PASSWORD="secret")

    def test_contexts(self):
        self.write("right", user="joe", password="secret")
        self.write("wrong", user="joe", password="x")
        here = {"NATS_URL": ""}
        self.get_in("--context", "right", **here)
        self.get_in(NATS_CONTEXT="right", **here)
        self.get_in("--context", "right", NATS_CONTEXT="wrong", **here)
        self.get_in("--context", "right", NATS_USER="eve", NATS_PASSWORD="x", **here)
        self.get_in("--context", "wrong", "--user", "joe", "--password", "secret", **here)
        self.get_in("--context", "wrong", "--password", "secret", **here)
        self.stay_out("--context", "wrong", NATS_USER="joe", NATS_PASSWORD="secret", **here)
        # The selected one is for its own server alone.
        Path(self.home.name, "nats/context.txt").write_text("right")
        self.get_in(**here)
        self.stay_out("-s", self.server.url, **here)

    def write(self, name, **values):
        path = Path(self.home.name, "nats/context", f"{name}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"url": self.server.url, **values}))


class Token(Identity):
    """A name without a password is a token."""

    flags = ["--auth", "secret"]

    def test_flags_and_environment(self):
        self.get_in("--token", "secret")
        self.get_in("--user", "secret")
        self.get_in(NATS_TOKEN="secret")
        self.get_in(NATS_USER="secret")
        self.stay_out("--user", "wrong", NATS_TOKEN="secret")

    def test_contexts(self):
        self.write("token", token="secret")
        self.get_in("--context", "token", NATS_URL="")


class Terminal(Case):
    def test_somebody_at_a_terminal_is_told_that_it_waits(self):
        for command in ("sub",), ("reply", "--echo"):
            master, slave = pty.openpty()
            self.addCleanup(os.close, master)
            process = subprocess.Popen([MIDGE, *command, "s"], stderr=slave, env=self.environment)
            os.close(slave)
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
            said = b""
            while not said.endswith(b"\n"):
                said += os.read(master, 100)
            self.assertEqual(said.decode().rstrip(), "midge: listening on s; Ctrl-C ends it")

    def test_colours_are_for_terminals_and_control_characters_are_not(self):
        for no_color, wanted in (("", b"\x1b[1mt\x1b[0m"), ("1", b"[1] t ")):
            master, slave = pty.openpty()
            self.addCleanup(os.close, master)
            sub = subprocess.Popen([MIDGE, "sub", "t", "--timeout", "10s", "-c", "1"], stdout=slave,
                                   env={**self.environment, "TERM": "xterm", "NO_COLOR": no_color})
            os.close(slave)
            self.addCleanup(sub.kill)
            while sub.poll() is None:
                self.midge("pub", "t", stdin="\x1b]0;evil\x07 ü\u009b".encode() + b"\x9b\xe2\x82")
                time.sleep(0.02)
            shown = os.read(master, 65536)
            self.assertIn(wanted, shown)
            self.assertEqual(sub.returncode, OK)
            self.assertNotIn(b"\x1b]", shown)
            self.assertIn(b"\\x1b]0;evil\\x07 \xc3\xbc\\xc2\\x9b\\x9b\\xe2\\x82", shown)


@unittest.skipUnless(NATS, "NATS_CLI is not set")
class BesideNats(Case):
    def nats(self, *arguments, stdin=b""):
        done = subprocess.run([NATS, *arguments], input=stdin, capture_output=True, timeout=TIMEOUT_S,
                              env=self.environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.decode()

    def test_each_answers_the_other(self):
        self.begin_responder("ours", "--echo")
        self.assertIn("hello", self.nats("request", "ours", "hello", "--raw"))
        theirs = self.begin(NATS, "reply", "theirs", "from nats", "-H", "By:nats")
        self.wait_for_interest("theirs", theirs)
        self.assertIn("from nats", self.midge("req", "theirs", "hi"))

    def test_contexts(self):
        self.nats("context", "add", "here", "--server", self.server.url, "--description", "x")
        self.nats("context", "add", "elsewhere", "--server", "nats://127.0.0.1:1", "--select")
        del_url = {"NATS_URL": ""}
        self.assertIn(self.server.url, self.midge("rtt", "-c", "1", "--context", "here", **del_url))
        self.midge("rtt", "-c", "1", status=CONNECTION, **del_url)
        self.assertIn("127.0.0.1:1", self.said)
        self.assertIn(self.server.url, self.midge("rtt", "-c", "1"), "$NATS_URL goes before a selected one")
        self.assertIn(self.server.url, self.midge("rtt", "-c", "1", "-s", self.server.url, **del_url))
        path = Path(self.home.name, "nats/context/here.json")
        path.write_text("{ no JSON")
        self.midge("rtt", "--context", "here", status=USAGE)
        self.assertIn("here.json:1:", self.said)
        for text, why in (("[]", "no JSON object"), ('{"url": 4222}', '"url" is no string')):
            path.write_text(text)
            self.midge("rtt", "--context", "here", status=USAGE)
            self.assertRegex(self.said, rf"here\.json\W.*{why}")
        path.unlink()
        path.symlink_to(path)
        Path(self.home.name, "nats/context.txt").write_text("here")
        for _ in range(2):
            self.midge("rtt", status=USAGE, **del_url)
            self.assertIn("cannot read context here", self.said)
            path.unlink(missing_ok=True)
        self.midge("rtt", "-c", "1")
        Path(self.home.name, "nats/context.txt").unlink()


if __name__ == "__main__":
    unittest.main()
