"""The example service as those see it who look after services: the `nats` command and nats-py.

    test_service.py midge|nats-server [TEST...]
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "interop"))
import harness  # noqa: E402

TIMEOUT_S = 60
SERVICE = os.environ.get("MIDGE_SERVICE_EXAMPLE") or sys.exit("fail: MIDGE_SERVICE_EXAMPLE is not set")
NATS = os.environ.get("NATS_CLI") or sys.exit("fail: NATS_CLI is not set")
KIND = sys.argv.pop(1)


class Service(unittest.TestCase):
    def setUp(self):
        self.server = harness.Server(harness.find_server(KIND))
        self.server.start()
        self.addCleanup(self.server.kill)
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.environment = {**os.environ, "NATS_URL": self.server.url, "HOME": home.name,
                            "XDG_CONFIG_HOME": home.name}
        self.services = {}
        self.id = self.begin_service()

    def begin_service(self):
        """Start the example; the server knows it when this returns. Returns its id."""
        process = subprocess.Popen([SERVICE], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   env=self.environment, text=True)

        def end():
            if process.poll() is None:
                process.kill()
            process.communicate()

        self.addCleanup(end)
        ready = re.fullmatch(r"greeter (\w{22}) is ready\n", process.stdout.readline())
        self.assertTrue(ready)
        self.services[ready.group(1)] = process
        return ready.group(1)

    def nats(self, *arguments):
        """Run the `nats` command. Returns what it printed."""
        done = subprocess.run([NATS, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=TIMEOUT_S, env=self.environment)
        self.assertEqual(done.returncode, 0, f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def test_it_is_listed_with_what_it_says_about_itself(self):
        self.assertRegex(self.nats("micro", "ls"), rf"greeter .* 1\.0\.0 .* {self.id} .* Greets people")
        wanted = {
            "type": "io.nats.micro.v1.info_response", "name": "greeter", "id": self.id, "version": "1.0.0",
            "metadata": {"language": "C"}, "description": "Greets people and divides numbers",
            "endpoints": [
                {"name": "hello", "subject": "greet.*", "queue_group": "q", "metadata": {}},
                {"name": "divide", "subject": "math.divide", "queue_group": "calculators",
                 "metadata": {"language": "C"}},
            ],
        }
        self.assertEqual(json.loads(self.nats("micro", "ls", "--json")), [wanted])
        both = json.loads(self.nats("micro", "info", "greeter", self.id, "--json"))
        self.assertEqual(both["info"], wanted)
        self.assertEqual(both["stats"]["id"], self.id)
        self.assertIn("Greets people and divides numbers", self.nats("micro", "info", "greeter"))

    def test_it_answers_pings(self):
        # The command waits for more until the time is over.
        self.assertRegex(self.nats("micro", "ping", "greeter", "--timeout=2s"), rf"greeter {self.id} +rtt=")

    def test_requests_and_errors_count(self):
        for name in ("joe", "sue", "bob"):
            self.assertEqual(self.nats("request", "--raw", f"greet.{name}", "").strip(), f"hello, {name}")
        self.assertEqual(self.nats("request", "--raw", "math.divide", "42 6").strip(), "7")
        answer = self.nats("request", "math.divide", "1 0")
        self.assertIn("Nats-Service-Error: division by zero", answer)
        self.assertIn("Nats-Service-Error-Code: 422", answer)
        self.nats("request", "math.divide", "nothing")
        (stats,) = json.loads(self.nats("micro", "stats", "greeter", "--json"))
        self.assertRegex(stats["started"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,3})?Z$")
        hello, divide = stats["endpoints"]
        for endpoint in (hello, divide):
            total = endpoint.pop("processing_time")
            self.assertGreater(total, 0)
            self.assertEqual(endpoint.pop("average_processing_time"), total // endpoint["num_requests"])
        self.assertEqual(hello, {"name": "hello", "subject": "greet.*", "queue_group": "q",
                                 "num_requests": 3, "num_errors": 0, "last_error": ""})
        self.assertEqual(divide, {"name": "divide", "subject": "math.divide", "queue_group": "calculators",
                                  "num_requests": 3, "num_errors": 2,
                                  "last_error": "400:two numbers are wanted"})
        self.assertRegex(self.nats("micro", "stats", "greeter"), r"divide +│ 3 +│ calculators +│ 2 ")

    def test_instances_share_the_requests(self):
        second = self.begin_service()
        found = json.loads(self.nats("micro", "ls", "--json"))
        self.assertEqual(sorted(each["id"] for each in found), sorted([self.id, second]))
        for _ in range(8):
            self.nats("request", "--raw", "greet.joe", "")
        stats = json.loads(self.nats("micro", "stats", "greeter", "--json"))
        self.assertEqual(sum(each["endpoints"][0]["num_requests"] for each in stats), 8)

    def test_nats_py_reads_what_it_says(self):
        reader = Path(__file__).with_name("read_service.py")
        done = subprocess.run([harness.python_with_clients(), reader, "greeter", self.id], text=True,
                              capture_output=True, timeout=TIMEOUT_S, env=self.environment)
        self.assertEqual((done.returncode, done.stdout), (0, "ok\n"), done.stderr)

    def test_it_ends_in_order_and_is_not_listed_any_more(self):
        process = self.services[self.id]
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(TIMEOUT_S), 0)
        done = subprocess.run([NATS, "micro", "ls"], capture_output=True, text=True, timeout=TIMEOUT_S,
                              env=self.environment)
        self.assertIn("no service instances found", done.stdout + done.stderr)

    def test_it_is_there_again_after_the_server_was(self):
        self.server.restart()
        answer = ""
        while "hello, joe" not in answer:  # bounded by the time limit of the test
            answer = self.nats("request", "--raw", "greet.joe", "")
        (found,) = json.loads(self.nats("micro", "ls", "--json"))
        self.assertEqual(found["id"], self.id)


if __name__ == "__main__":
    unittest.main()
