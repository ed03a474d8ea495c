"""Run one client program against one server, and check what it says.

The program gets NATS_URL in its environment. For each scenario that holds it prints `ok NAME`; at the
first one that does not, it says why on standard error and ends with a status other than 0. When it
prints `restart`, the server is killed and started again on the same port, and the program then reads
`restarted` from its standard input. A scenario that is missing at the end is a failure, so none is left
out unseen. With --expect-output the program's whole output is compared with a file instead.

    run_client.py --server midge|nats-server [--python] [--expect-output FILE] -- PROGRAM [ARGUMENT...]
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import harness

CLIENT_TIMEOUT_S = 200
SCENARIOS = [
    "request_reply",
    "no_responders",
    "headers",
    "wildcards",
    "queue_groups",
    "auto_unsubscribe",
    "drain_subscription",
    "drain_connection",
    "large_payload",
    "max_payload",
    "reconnect",
]


def parse_arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", choices=["midge", "nats-server"], required=True)
    parser.add_argument("--expect-output", type=Path)
    parser.add_argument("--python", action="store_true", help="PROGRAM is a script for nats-py")
    parser.add_argument("program", nargs="+")
    return parser.parse_args()


def resolve(arguments):
    """The client's command with the full path of its program; skips if a part of it is absent."""
    program = arguments.program
    if arguments.python:
        program = [harness.python_with_clients(), *program]
    for path in ":".join(program).split(":"):  # a class path is more than one
        if os.path.isabs(path) and not os.path.exists(path.removesuffix("/*")):
            harness.skip(f"{path} was not built")
    return [shutil.which(program[0]) or harness.skip(f"{program[0]} is not installed"), *program[1:]]


def converse(client, server):
    """Pass on the client's lines and obey `restart`. Returns the lines."""
    lines = []
    for line in client.stdout:
        lines.append(line)
        print(line, end="", flush=True)
        if line == "restart\n":
            server.restart()
            client.stdin.write("restarted\n")
            client.stdin.flush()
    return lines


def run(program, server):
    """Run the client to its end. Returns its lines and its status; killed after CLIENT_TIMEOUT_S."""
    client = subprocess.Popen(
        program,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "NATS_URL": server.url},
    )
    watchdog = threading.Timer(CLIENT_TIMEOUT_S, client.kill)
    watchdog.start()
    try:
        lines = converse(client, server)
        return lines, client.wait()
    finally:
        watchdog.cancel()
        client.kill()
        client.wait()


def judge(lines, status, expected_output):
    """Returns None, or what is wrong with what the client said and how it ended."""
    if status != 0:
        killed = f", killed after {CLIENT_TIMEOUT_S} s" if status == -signal.SIGKILL else ""
        return f"the client ended with status {status}{killed}"
    if expected_output is not None:
        wanted = expected_output.read_text()
        return None if "".join(lines) == wanted else f"the output is not {wanted!r}"
    passed = [line.split()[1] for line in lines if line.startswith("ok ")]
    if passed != SCENARIOS:
        return f"scenarios passed: {passed}, not {SCENARIOS}"
    return None


def main():
    arguments = parse_arguments()
    program = resolve(arguments)
    with harness.Server(harness.find_server(arguments.server)) as server:
        try:
            lines, status = run(program, server)
        except harness.ServerError as error:
            sys.exit(f"fail: {error}")
        wrong = judge(lines, status, arguments.expect_output) or server.stop()
        if wrong:
            sys.exit(f"fail: {wrong}\nserver log:\n{server.log_text()}")


if __name__ == "__main__":
    main()
