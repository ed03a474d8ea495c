"""The nats command, unmodified: publish, subscribe, request, reply, rtt, bench, service and the health check.

Each command runs as a user types it; its output and exit status are compared. A command that stays is
ready once a request to its subject no longer finds nobody there: the broker, not the clock, says so.

    nats_cli.py --server midge|nats-server
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

import harness

COMMAND_TIMEOUT_S = 15
SETTLE_S = 0.5  # for a command to print what it has received
NOBODY = "No responders are available"


class Nats:
    """The command line against one server, with a home of its own so that no context is picked up."""

    def __init__(self, program, url, home):
        self._program = program
        self._environment = {**os.environ, "NATS_URL": url, "HOME": home, "XDG_CONFIG_HOME": home}
        self._background = []

    def run(self, *arguments, status=0):
        """Run one command to its end. Returns standard output and standard error."""
        done = subprocess.run(
            [self._program, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        check(
            done.returncode == status,
            f"nats {' '.join(arguments)} ended with {done.returncode}, not {status}:\n"
            f"{done.stdout}{done.stderr}",
        )
        return done.stdout, done.stderr

    def start(self, *arguments, ready_subject=None):
        """Start a command that stays, and wait until it has subscribed to `ready_subject`."""
        process = subprocess.Popen(
            [self._program, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._background.append(process)
        if ready_subject:
            self._wait_for_responder(ready_subject)
        return process

    def _wait_for_responder(self, subject):
        end = time.monotonic() + COMMAND_TIMEOUT_S
        while True:
            process = subprocess.run(
                [self._program, "request", subject, "probe", "--timeout=100ms"],
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
            if NOBODY not in process.stdout + process.stderr:
                return
            check(time.monotonic() < end, f"nobody subscribed to {subject}")

    def end_all(self):
        for process in self._background:
            if process.poll() is None:
                process.kill()
            process.communicate()
        self._background.clear()


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def check_equal(got, wanted, text):
    check(got == wanted, f"{text}: got {got!r}, wanted {wanted!r}")


def finish(process, status=0):
    """Wait for a command that ends by itself. Returns its output."""
    output, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
    check_equal(process.returncode, status, f"status of {process.args[1:]}; output {output}")
    return output


def interrupt(process):
    """Ctrl-C. Returns the output."""
    process.send_signal(signal.SIGINT)
    return process.communicate(timeout=COMMAND_TIMEOUT_S)[0]


def pub_and_sub(nats):
    subscriber = nats.start("sub", "cli.>", "--count=4", ready_subject="cli.ready")
    _, log = nats.run("pub", "cli.a", "hello")
    check('Published 5 bytes to "cli.a"' in log, f"pub: {log}")
    nats.run("pub", "cli.b", "number {{Count}}", "--count=2", "-H", "Name:one", "-H", "Name:two")
    output = finish(subscriber)
    received = re.findall(r'Received on "(.*?)"', output)
    check_equal(received, ["cli.ready", "cli.a", "cli.b", "cli.b"], "subjects received")
    check_equal(re.findall(r"Name: (\w+)", output), ["one", "two"] * 2, "header values received")
    for body in ("hello", "number 1", "number 2"):
        check(f"\n{body}\n" in output, f"{body!r} is missing in {output}")


def sub_queue(nats):
    members = [
        nats.start("sub", "cq.job", "--queue=workers", ready_subject="cq.job"),
        nats.start("sub", "cq.*", "--queue=workers", ready_subject="cq.other"),
    ]
    watcher = nats.start("sub", "cq.job", "cq.watch.x", "--count=41", ready_subject="cq.watch.x")
    nats.run("pub", "cq.job", "job {{Count}}.", "--count=40")
    wanted = sorted(str(i) for i in range(1, 41))
    check_equal(sorted(re.findall(r"job (\d+)\.", finish(watcher))), wanted, "the plain subscriber")
    time.sleep(SETTLE_S)
    shares = [re.findall(r"job (\d+)\.", interrupt(member)) for member in members]
    check_equal(sorted(sum(shares, [])), wanted, "each message reaches one member of the group")
    check(all(shares), f"every member gets a share: {shares}")


def request_and_reply(nats):
    echo = nats.start("reply", "cr.echo", "--echo", "--count=3", ready_subject="cr.echo")
    body, log = nats.run("request", "cr.echo", "a body", "-H", "Name:value")
    check_equal(body.strip(), "a body", "reply")
    check(re.search(r"Received with rtt", log), f"request: {log}")
    check("Name: value" in log, f"the header must come back: {log}")
    body, _ = nats.run("request", "--raw", "cr.echo", "bare")
    check_equal(body.strip(), "bare", "raw reply")
    output, _ = echo.communicate(timeout=COMMAND_TIMEOUT_S)
    check('Received on subject "cr.echo"' in output, f"reply: {output}")
    _, log = nats.run("request", "cr.echo", "too late")
    check(NOBODY in log, f"request to nobody: {log}")


def request_many(nats):
    for name in ("one", "two", "three"):
        nats.start("reply", "cm.who", name, f"--queue={name}", ready_subject="cm.who")
    # The probe of the later ones may be answered by the first: wait until all three are heard.
    end = time.monotonic() + COMMAND_TIMEOUT_S
    answers = []
    while sorted(answers) != ["one", "three", "two"]:
        check(time.monotonic() < end, f"replies: {answers}")
        answers = nats.run("request", "--raw", "--replies=0", "--timeout=500ms", "cm.who", "")[0].split()
        check(len(answers) <= 3, f"replies: {answers}")
    answers = nats.run("request", "--raw", "--replies=3", "cm.who", "")[0].split()
    check_equal(sorted(answers), ["one", "three", "two"], "replies of three groups")


def rtt(nats):
    output, _ = nats.run("rtt", "3", "--json")
    results = json.loads(output)[0]["results"]
    check(len(results) == 1 and results[0]["rtt"] > 0, f"rtt: {output}")


def check_connection(nats):
    output, _ = nats.run("server", "check", "connection", "--format=json")
    report = json.loads(output)
    check_equal(report["status"], "OK", "status of the check")
    names = [measured["name"] for measured in report["perf_data"]]
    check_equal(names, ["connect_time", "rtt", "request_time"], "what was measured")


def bench_pub_and_sub(nats):
    # The probe counts as a message of the benchmark.
    subscriber = nats.start("bench", "sub", "cb.x", "--msgs=5001", "--no-progress", ready_subject="cb.x")
    output, _ = nats.run("bench", "pub", "cb.x", "--msgs=5000", "--clients=2", "--no-progress")
    check("publisher aggregated stats" in output, f"bench pub: {output}")
    check("subscriber stats" in finish(subscriber), "bench sub reports")


def bench_service(nats):
    server = nats.start("bench", "service", "serve", "cs.x", "--no-progress", ready_subject="cs.x")
    output, _ = nats.run("bench", "service", "request", "cs.x", "--msgs=500", "--clients=2", "--no-progress")
    check("requester aggregated stats" in output, f"bench service request: {output}")
    interrupt(server)


def service(nats):
    _, log = nats.run("service", "list", status=1)
    check("no service instances found" in log, f"service list: {log}")
    nats.start("service", "serve", "demo", ready_subject="$SRV.PING.demo")
    nats.start("service", "serve", "demo")

    end = time.monotonic() + COMMAND_TIMEOUT_S
    instances = []
    while len(instances) < 2:
        check(time.monotonic() < end, f"two services, found {instances}")
        instances = json.loads(nats.run("service", "list", "--json")[0])
    check_equal([i["name"] for i in instances], ["demo", "demo"], "names of the services")
    ids = sorted(i["id"] for i in instances)
    pinged, _ = nats.run("service", "ping", "demo")
    check_equal(sorted(re.findall(r"demo (\w+) +rtt=", pinged)), ids, "ids of the ping")
    info = json.loads(nats.run("service", "info", "demo", ids[0], "--json")[0])
    check_equal(info["info"]["endpoints"][0]["subject"], "demo.echo", "endpoint of the info")

    for i in range(10):
        answer, _ = nats.run("service", "request", "--raw", "demo", "echo", f"hello {i}")
        check_equal(answer.strip(), f"hello {i}", "answer of the service")
    stats = json.loads(nats.run("service", "stats", "demo", "--json")[0])
    check_equal(sorted(s["id"] for s in stats), ids, "ids of the stats")
    check_equal(sum(s["endpoints"][0]["num_requests"] for s in stats), 10, "requests in the stats")


SCENARIOS = (
    pub_and_sub,
    sub_queue,
    request_and_reply,
    request_many,
    rtt,
    check_connection,
    bench_pub_and_sub,
    bench_service,
    service,
)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=["midge", "nats-server"], required=True)
    server_program = harness.find_server(parser.parse_args().server)
    program = harness.find_program("NATS_CLI", "nats") or harness.skip("no nats command (NATS_CLI)")
    with harness.Server(server_program) as server, tempfile.TemporaryDirectory() as home:
        nats = Nats(program, server.url, home)
        for scenario in SCENARIOS:
            try:
                scenario(nats)
            except Exception as error:  # whatever it is, it is the report
                log = server.log_text()
                sys.exit(f"fail {scenario.__name__}: {type(error).__name__}: {error}\nserver log:\n{log}")
            finally:
                nats.end_all()
            print(f"ok {scenario.__name__}", flush=True)
        wrong = server.stop()
        if wrong:
            sys.exit(f"fail: {wrong}\nserver log:\n{server.log_text()}")


if __name__ == "__main__":
    main()
