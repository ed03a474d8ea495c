"""libmidge and another client against one server, both ways round: who asks answers in the second round.

A round is two programs that get NATS_URL in their environment. The responder subscribes, prints `ready`,
and answers requests to

    ask.upper     with the payload, ASCII letters in upper case
    ask.headers   with the payload and headers of the request, and two values of `Answer` behind them
    ask.silent    not at all
    ask.send      with nothing, after it has published COUNT numbered messages on `source`
    ask.count     with `COUNT in order`, or what was wrong with the numbered messages that came on `sink`
    ask.share     with the payloads that came to it on `work`, in the group `workers`, blanks between them
    ask.leave     with `bye`; then it drains its connection and ends with status 0

The n-th of the numbered messages, from 0, has the payload n; if n is odd it has one header, `Number: n`.

For each scenario that holds the requester prints `ok NAME`; at the first one that does not, it says why on
standard error and ends with a status other than 0. SCENARIOS lists what it must pass.

    run_pair.py --server midge|nats-server --libmidge PROGRAM [--python] [--last-value] [--no-empty]
                -- PEER [ARGUMENT...]
"""

import argparse
import os
import subprocess
import sys
import threading

import harness
import run_client

ROUND_TIMEOUT_S = 100
SCENARIOS = [
    "request_reply",
    "requests_in_flight",
    "large_payload",
    "headers",
    "publish",
    "subscribe",
    "queue_group",
    "no_responders",
    "responder_leaves",
]


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=["midge", "nats-server"], required=True)
    parser.add_argument("--libmidge", required=True, help="the program with libmidge")
    parser.add_argument("--python", action="store_true", help="PEER is a script for nats-py")
    parser.add_argument("--last-value", action="store_true", help="PEER keeps the last value of a header")
    parser.add_argument("--no-empty", action="store_true", help="PEER takes no header without value")
    parser.add_argument("program", nargs="+", metavar="PEER")
    return parser.parse_args()


class Round:
    """One responder and one requester; whatever happens, both have ended after it."""

    def __init__(self, url):
        self._environment = {**os.environ, "NATS_URL": url}
        self._processes = []
        self._is_late = False

    def __enter__(self):
        self._watchdog = threading.Timer(ROUND_TIMEOUT_S, self._end_late)
        self._watchdog.start()
        return self

    def __exit__(self, *_exception):
        self._watchdog.cancel()
        self._kill()
        for process in self._processes:
            process.wait()

    def _end_late(self):
        self._is_late = True
        self._kill()

    def _kill(self):
        for process in self._processes:
            process.kill()

    def _start(self, command):
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
            env=self._environment,
        )
        self._processes.append(process)
        return process

    def play(self, responder_command, requester_command):
        """Returns None, or what is wrong."""
        responder = self._start([*responder_command, "responder"])
        if responder.stdout.readline() != "ready\n":
            return f"the responder did not get ready, and ended with status {responder.wait()}{self._late()}"
        requester = self._start([*requester_command, "requester"])
        lines = []
        for line in requester.stdout:
            lines.append(line)
            print(line, end="", flush=True)
        passed = [line.split()[1] for line in lines if line.startswith("ok ")]
        if requester.wait() != 0:
            return f"the requester ended with status {requester.returncode}{self._late()}"
        if passed != SCENARIOS:
            return f"scenarios passed: {passed}, not {SCENARIOS}"
        if responder.wait() != 0:
            return f"the responder ended with status {responder.returncode}{self._late()}"
        return None

    def _late(self):
        return f", both killed after {ROUND_TIMEOUT_S} s" if self._is_late else ""


def main():
    arguments = parse_arguments()
    peer = run_client.resolve(arguments)
    libmidge = [arguments.libmidge]
    libmidge += ["--last-value"] if arguments.last_value else []
    libmidge += ["--no-empty"] if arguments.no_empty else []
    with harness.Server(harness.find_server(arguments.server)) as server:
        for title, responder, requester in (
            ("libmidge asks", peer, libmidge),
            ("libmidge answers", libmidge, peer),
        ):
            print(f"{title}:", flush=True)
            with Round(server.url) as playing:
                wrong = playing.play(responder, requester)
            if wrong:
                sys.exit(f"fail: {title}: {wrong}\nserver log:\n{server.log_text()}")
        wrong = server.stop()
        if wrong:
            sys.exit(f"fail: {wrong}\nserver log:\n{server.log_text()}")


if __name__ == "__main__":
    main()
