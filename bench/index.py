#!/usr/bin/env python3
"""The subject index at scale: what a match costs, what a subscription weighs, what a close stalls.

midge-bench-subindex measures the index alone, for some sizes and mixes of subscriptions, with 0, 10,000
and 100,000 changes a second by another thread. Then a connection to midge-server subscribes and closes,
while another one sends PING and waits for each PONG: the longest wait is what the close stalled.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
from measure import document, environment  # noqa: E402
from measure.server import RunFailed, Server, find_program  # noqa: E402

SIZES = (1000, 100000, 1000000)
HUGE = 10000000
MIXES = ("literal", "tenth", "half", "tails")
BOMBS = (1024, 16384, 131072)
CLOSES = (100000, 1000000)
GOAL_STALL_NS = 10_000_000  # of closing the first of CLOSES
RUN_SECONDS_MAX = 900
SETTLE_POLLS_MAX = 40
PROGRAM = "midge-bench-subindex"


def parse_arguments(argv):
    build = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build", "release")
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--build", default=build, help=f"directory of {PROGRAM} and midge-server")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)),
                        help="core of index and server; default: the last one allowed")
    parser.add_argument("--json", metavar="FILE", help="where every run and the record of the machine go")
    parser.add_argument("--write", metavar="FILE",
                        help="put the result between the `index` markers of a Markdown file")
    parser.add_argument("--round-ms", type=int, default=200, help="CPU time of one slice of a round")
    parser.add_argument("--huge", action="store_true", help=f"{HUGE:,} subscriptions, too: some 4 GiB")
    parser.add_argument("--short", action="store_true", help="small sizes: shows that all of it runs")
    return parser.parse_args(argv)


def plan(arguments):
    """(subscriptions, mix) of each run of the micro-benchmark."""
    if arguments.short:
        return [(1000, mix) for mix in MIXES] + [(256, "bomb")]
    sizes = SIZES + ((HUGE,) if arguments.huge else ())
    return [(size, mix) for size in sizes for mix in MIXES] + [(size, "bomb") for size in BOMBS]


def run_micro(program, size, mix, arguments):
    command = [program, "--subscriptions", str(size), "--mix", mix, "--rounds", str(arguments.rounds),
               "--round-ms", str(arguments.round_ms), "--cpu", str(arguments.cpu), "--json"]
    others = sorted(os.sched_getaffinity(0) - {arguments.cpu})
    if others:
        command += ["--writer-cpu", str(others[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=RUN_SECONDS_MAX)
    if done.returncode != 0:
        raise RunFailed(f"{PROGRAM}: {done.stderr.strip()}")
    result = json.loads(done.stdout)
    result["command"] = command
    return result


def connect(address):
    deadline = time.monotonic() + 5
    while True:
        try:
            return socket.create_connection(address, 30)
        except ConnectionRefusedError as error:
            if time.monotonic() > deadline:
                raise RunFailed("midge-server does not listen") from error
            time.sleep(0.01)


class Client:
    """A connection on a plain socket that sends PING and waits for PONG."""

    def __init__(self, address):
        self.socket = connect(address)
        self.data = b""  # of after the last PONG; the server's own PING stays unanswered, for some minutes
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(b'CONNECT {"verbose":false}\r\n')
        self.fence()

    def fence(self):
        """Nanoseconds from PING to its PONG."""
        began = time.monotonic_ns()
        self.socket.sendall(b"PING\r\n")
        while b"PONG\r\n" not in self.data:
            more = self.socket.recv(65536)
            if not more or b"-ERR" in more:
                raise RunFailed(f"midge-server: {more[:100]!r} where PONG was due")
            self.data += more
        took = time.monotonic_ns() - began
        self.data = self.data[self.data.index(b"PONG\r\n") + 6 :]
        return took

    def longest(self, seconds):
        end = time.monotonic() + seconds
        waits = []
        while time.monotonic() < end:
            waits.append(self.fence())
        return max(waits)


def sub_lines(count):
    """SUB lines, some in each piece."""
    for first in range(0, count, 10000):
        yield b"".join(
            b"SUB fleet.%d.unit.%d.%s %d\r\n" % (i % 1000, i, b"*" if i % 10 == 9 else b"state", i + 1)
            for i in range(first, min(first + 10000, count)))


def settled(pid):
    """Resident bytes, once they fall no more: memory goes back to the system step by step."""
    lowest = environment.resident(pid)
    for _ in range(SETTLE_POLLS_MAX):
        time.sleep(0.5)
        now = environment.resident(pid)
        if now >= lowest:
            break
        lowest = now
    return lowest


def run_close(program, count, arguments, directory):
    """One fresh server; what a waiting connection sees while another one closes."""
    pieces = list(sub_lines(count))
    with Server(program, directory, arguments.cpu) as server:
        waiting, closing = Client(server.address), Client(server.address)
        resident = environment.resident(server.process.pid)
        began, cpu_began = time.monotonic(), server.cpu_seconds()
        for piece in pieces:
            closing.socket.sendall(piece)
        closing.fence()
        took, cpu_took = time.monotonic() - began, server.cpu_seconds() - cpu_began
        grown = environment.resident(server.process.pid) - resident
        before = waiting.longest(0.2 if arguments.short else 1)
        cpu_began = server.cpu_seconds()
        closing.socket.close()
        beside = waiting.longest(0.5 + count / 500000)
        left = settled(server.process.pid) - resident
        result = {"subscribed_per_s": count / took, "subscribe_cpu_ns": cpu_took * 1e9 / count,
                  "resident_each": grown / count, "before_ns": before, "beside_ns": beside,
                  "left": left, "grown": grown}
        server.check_alive()
        return result


def measure(program, server, arguments):
    """Everything that was measured, and what else the machine did meanwhile."""
    before, own_before, began = environment.cpu_times(), environment.children_seconds(), time.monotonic()
    runs, closes = [], {}
    for size, mix in plan(arguments):
        print(f"{size} subscriptions, {mix}", file=sys.stderr)
        runs.append(run_micro(program, size, mix, arguments))
    # The writers are ours, too, and ran elsewhere.
    writers = sum(rate["changes"] * rate["change_ns"] / 1e9 for run in runs for rate in run["rates"])
    own = environment.children_seconds() - own_before - writers
    foreign = environment.foreign(before, environment.cpu_times(), arguments.cpu, own)
    foreign["elsewhere_s"] = max(0.0, foreign["elsewhere_s"] - writers)
    foreign["elapsed_s"] = time.monotonic() - began
    with tempfile.TemporaryDirectory(prefix="midge-index-") as directory:
        for count in (2000,) if arguments.short else CLOSES:
            print(f"close with {count} subscriptions", file=sys.stderr)
            closes[count] = [run_close(server, count, arguments, directory)
                             for _ in range(arguments.rounds)]
    return {"runs": runs, "closes": closes, "foreign": foreign}


def rows_of(run):
    first = f"| {run['subscriptions']:,} | {run['mix']} | {run['bytes_each']:.0f} | {run['insert_ns']:.0f} |"
    alone = run["rates"][0]
    for rate in run["rates"]:
        cells = [f"{rate['changes_per_s']:,.0f}"]
        for name in ("uniform", "hot"):
            one = rate[name]
            ratio = "" if rate is alone else f"{one['match_ns'] / alone[name]['match_ns']:.2f}"
            cells += [f"{one['match_ns']:,.0f} ({one['low_ns']:,.0f}–{one['high_ns']:,.0f})", ratio,
                      f"{one['hits']:.0%}"]
            if name == "uniform":
                cells += [f"{one['matches_per_s'] / 1e6:.2f}", f"{one['visits']:,.1f}"]
        yield f"{first} " + " | ".join(cells) + " |"
        first = "| | | | |"


def close_rows(closes):
    for count, runs in closes.items():
        def middle(key, runs=runs):
            return statistics.median(one[key] for one in runs)

        worst = max(one["beside_ns"] for one in runs)
        yield (f"| {int(count):,} | {middle('subscribed_per_s'):,.0f} | {middle('subscribe_cpu_ns'):,.0f} "
               f"| {middle('resident_each'):.0f} | {middle('before_ns') / 1e6:.2f} "
               f"| {middle('beside_ns') / 1e6:.2f} | {worst / 1e6:.2f} "
               f"| {middle('left') / middle('grown'):.0%} |")


def whole(record, measured, arguments):
    lines = [
        f"{environment.machine_text(record)}; matches on CPU {arguments.cpu}, changes on another one; "
        f"{arguments.rounds} rounds, {arguments.round_ms} ms of CPU time for each figure in a round; commit "
        f"{record['commit']}.",
        f"Command: `{' '.join(['bench/index.py', *sys.argv[1:]])}`.",
        "",
        "| subscriptions | mix | bytes each | insert ns | changes/s made | uniform ns/match | × alone "
        "| cached | 10⁶ matches/s | nodes | hot ns/match | × alone | cached |",
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for run in measured["runs"]:
        lines += rows_of(run)
    lines += [
        "",
        "Closing one connection of midge-server, medians of fresh servers:",
        "",
        "| subscriptions | SUB/s | server CPU ns/SUB | bytes resident each | longest PONG before, ms "
        "| longest beside the close, ms | worst round, ms | memory kept |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|",
        *close_rows(measured["closes"]),
        "",
    ]
    if CLOSES[0] in measured["closes"]:
        stall = statistics.median(one["beside_ns"] for one in measured["closes"][CLOSES[0]])
        lines += [f"Closing {CLOSES[0]:,} subscriptions stalls no other connection for more than "
                  f"{GOAL_STALL_NS / 1e6:.0f} ms in the median round: "
                  f"{'met' if stall <= GOAL_STALL_NS else 'missed'}.", ""]
    lines.append(environment.noise_text(measured["foreign"]))
    return "\n".join(lines) + "\n"


def main(argv):
    arguments = parse_arguments(argv)
    if arguments.short:
        arguments.rounds, arguments.round_ms = min(arguments.rounds, 2), min(arguments.round_ms, 5)
    try:
        program = find_program(PROGRAM, arguments.build, "MIDGE_BENCH_SUBINDEX")
        server = find_program("midge-server", arguments.build, "MIDGE_SERVER")
        record = environment.describe(os.path.dirname(os.path.abspath(__file__)))
        environment.leave_cpu(arguments.cpu)
        measured = measure(program, server, arguments)
    except (RunFailed, OSError, subprocess.TimeoutExpired) as error:
        print(f"index: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        os.makedirs(os.path.dirname(os.path.abspath(arguments.json)), exist_ok=True)
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"environment": record, **measured}, file, indent=1)
            file.write("\n")
    text = whole(record, measured, arguments)
    print(text, end="")
    if arguments.write:
        document.write(arguments.write, "index", text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
