"""The runs behind the table, and the rows that are read from them.

A case is one load and the servers that get it, each started afresh in each round. A row takes one figure
of a case, says what it is compared with, and what it should be.
"""

from . import rounds

RATE = 100000  # messages a second that clients publish, in the cases at a rate
SOMETIMES = 3  # tuned servers run in every third round

FLOORED = ("floor", "floor-again", "midge", "nats")
PLAIN = ("midge", "midge-again", "nats")
TUNED = ("midge-tuned", "nats-tuned")

CPU_ROWS = (  # text, case, and the share of nats-server that is the aim
    ("16 connections × 8 in flight: CPU per request", "req", 0.5),
    ("same at 100,000 messages/s", "req-rate", 0.5),
    ("16 B, 1 to 1: CPU per message", "pub-1-1", 0.2),
    ("same at 100,000 messages/s", "pub-1-1-rate", 0.2),
    ("16 B, 1 to 8: CPU per message", "pub-1-8", 0.25),
    ("same at 100,000 messages/s", "pub-1-8-rate", 0.25),
    ("64 KiB, 1 to 1: CPU per message", "pub-64k", 0.5),
)


class Sizes:
    """How much each run does: in full, or just enough to see that everything works."""

    def __init__(self, is_short=False, cpu_seconds=None):
        self.requests = 2000 if is_short else 100000  # p99.9 needs 100 samples beyond it
        self.requests_p50 = 500 if is_short else 20000
        self.requests_spread = 500 if is_short else 10000
        full, slow = (0.02, 0.01) if is_short else (0.2, 0.1)
        self.cpu_ms = round(1000 * (cpu_seconds or full))
        self.cpu_rate_ms = round(1000 * (cpu_seconds or slow))
        self.warmup = 200 if is_short else 5000
        self.connections = 200 if is_short else 5000
        self.subscriptions = 20000 if is_short else 1000000
        self.idle_ms = 100 if is_short else 1000
        self.idle_seconds = 2 if is_short else 60


class Case:
    """`place`: one = server and load on one core; all = nothing is bound; shards = server on two."""

    def __init__(self, name, load, names, sometimes=(), place="one", transport="tcp", seconds=1.0):
        self.name = name
        self.load = [str(word) for word in load]
        self.names = list(names)
        self.sometimes = list(sometimes)
        self.place = place
        self.transport = transport
        self.seconds = seconds  # of one run, roughly

    def everybody(self):
        return self.names + self.sometimes

    def turn(self, index):
        """Names that run in that round."""
        return self.names + (self.sometimes if index % SOMETIMES == 0 else [])

    def planned_seconds(self, rounds):
        return self.seconds * sum(len(self.turn(index)) for index in range(rounds))


def trips(sizes):
    """Round trips of one request in flight on one core."""
    for size in (16, 1024):
        load = ["rtt", "--size", size, "--warmup", sizes.warmup, "--count"]
        yield Case(f"rtt-{size}", [*load, sizes.requests], FLOORED, seconds=0.2 + 45e-6 * sizes.requests)
        yield Case(f"rtt-{size}-tuned", [*load, sizes.requests_p50], (), ("floor", *TUNED),
                   seconds=0.2 + 45e-6 * sizes.requests_p50)
        yield Case(f"unix-{size}", [*load, sizes.requests], FLOORED[:3], transport="unix",
                   seconds=0.2 + 30e-6 * sizes.requests)
        yield Case(f"unix-{size}-tuned", [*load, sizes.requests_p50], (), ("floor", TUNED[0]),
                   transport="unix", seconds=0.2 + 30e-6 * sizes.requests_p50)


def loads(sizes):
    """(name, arguments, CPU ms, share of a core that the server has meanwhile) of the CPU figures."""
    until = ["--warmup", sizes.warmup, "--cpu-ms", sizes.cpu_ms]
    paced = ["--warmup", sizes.warmup, "--cpu-ms", sizes.cpu_rate_ms, "--rate"]
    eight = ["--subscribers", 8]
    return [
        ("req", ["req", *until], sizes.cpu_ms, 0.4),
        ("req-rate", ["req", *paced, RATE // 2], sizes.cpu_rate_ms, 0.4),  # each is two messages
        ("pub-1-1", ["pub", *until], sizes.cpu_ms, 0.4),
        ("pub-1-1-rate", ["pub", *paced, RATE], sizes.cpu_rate_ms, 0.2),
        ("pub-1-8", ["pub", *until, *eight], sizes.cpu_ms, 0.4),
        ("pub-1-8-rate", ["pub", *paced, RATE, *eight], sizes.cpu_rate_ms, 0.3),
        ("pub-64k", ["pub", *until[2:], "--warmup", sizes.warmup // 10, "--size", 65536, "--window", 256],
         sizes.cpu_ms, 0.5),
    ]


def make(sizes):
    """All cases, in the order in which a round runs them."""
    cases = list(trips(sizes))
    for name, load, cpu_ms, share in loads(sizes):
        cases.append(Case(name, load, PLAIN, TUNED, seconds=0.2 + cpu_ms / 1000 / share))
    eight = ["pub", "--publishers", 8, "--subscribers", 8, "--warmup", 200, "--window", 1024, "--cpu-ms"]
    threads = ("midge-threads1", "midge-threads1-again", "midge-threads2", "midge-threads2-again")
    cases.append(Case("shards", [*eight, 2 * sizes.cpu_ms], threads,
                      seconds=0.4 + 2 * sizes.cpu_ms / 1000 / 0.4))
    cases.append(Case("all-shards", [*eight, 5 * sizes.cpu_ms],
                      (*threads, "midge-threads1-tuned", "midge-threads2-tuned"), place="shards",
                      seconds=0.4 + 5 * sizes.cpu_ms / 1000))
    cases.append(Case("conns", ["conns", "--connections", sizes.connections, "--idle-ms", sizes.idle_ms],
                      PLAIN, ("nats-lean",), seconds=0.3 + (sizes.idle_ms + sizes.connections / 4) / 1000))
    cases.append(Case("subs", ["subs", "--subscriptions", sizes.subscriptions, "--idle-ms",
                               sizes.idle_ms // 5, "--warmup", sizes.warmup, "--cpu-ms",
                               sizes.cpu_rate_ms, "--timeout-ms", 60000],
                      PLAIN, ("nats-tuned", "nats-lean"), seconds=0.7 + 4e-6 * sizes.subscriptions))
    spread = ("midge", "midge-again", "midge-tuned", "nats")
    trip = ["rtt", "--warmup", sizes.warmup // 5, "--count", sizes.requests_spread]
    for size in (16, 1024):
        for name, transport in (("rtt", "tcp"), ("unix", "unix")):
            cases.append(Case(f"all-{name}-{size}", [*trip, "--size", size], spread, place="all",
                              transport=transport, seconds=0.2 + 60e-6 * sizes.requests_spread))
    for name, load, cpu_ms, share in loads(sizes):
        cases.append(Case(f"all-{name}", load, spread, place="all",
                          seconds=0.2 + cpu_ms / 1000 / (2 * share)))
    return cases


class Row(rounds.Row):
    """… with the columns of tuned servers, and of one without spinning."""

    def __init__(self, text, case, key, base="nats", limit=None, is_floor=False, is_value=False,
                 subject="midge", again=None, tuned=None, still="midge-tuned"):
        again = again or (("floor-again", "floor") if base == "floor" else ("midge-again", "midge"))
        super().__init__(text, case, key, base, limit, is_floor, is_value, subject, again)
        self.still = still  # the subject without spinning
        self.tuned = tuned  # (case, subject, base) of the column for tuned servers


def rows():
    """The rows that have aims."""
    found = []
    for size, text in ((16, "16 B"), (1024, "1 KiB")):
        tuned = (f"rtt-{size}-tuned", "midge-tuned", "floor")
        found.append(Row(f"round trip {text}, one in flight, TCP: p50", f"rtt-{size}", "p50_ns", "floor",
                         1.10, tuned=tuned))
        found.append(Row(f"round trip {text}, one in flight, TCP: p99.9", f"rtt-{size}", "p999_ns", "floor",
                         1.5))
        found.append(Row(f"round trip {text}, Unix socket: p50", f"unix-{size}", "p50_ns", "floor", 1.15,
                         tuned=(f"unix-{size}-tuned", "midge-tuned", "floor")))
        found.append(Row(f"round trip {text}, Unix socket: p99.9", f"unix-{size}", "p999_ns", "floor"))
    for text, case, limit in CPU_ROWS:
        found.append(Row(text, case, "cpu_ns", "nats", limit, tuned=(case, *TUNED)))
    lean = ("midge", "nats-lean")
    return found + [
        Row("two shards over one, 8 publishers to 8 subscribers: CPU per message", "shards", "cpu_ns",
            "midge-threads1", 1.3, subject="midge-threads2",
            again=("midge-threads1-again", "midge-threads1")),
        Row("connections, 1 s idle: VmRSS each", "conns", "resident_each", "nats", 4096, is_value=True,
            tuned=("conns", *lean)),
        Row("subscriptions on one connection: VmRSS each", "subs", "resident_each", "nats", 200,
            is_value=True, tuned=("subs", *lean)),
        Row("same: subscriptions/s", "subs", "subscribed_per_s", "nats", 5, is_floor=True,
            tuned=("subs", "midge", "nats-tuned")),
        Row("same: CPU per publish on random subjects of them", "subs", "cpu_ns", "nats", 0.125,
            tuned=("subs", "midge", "nats-tuned")),
        Row("idle broker: share of a core", "idle", "cpu_share", "nats", 0.001, is_value=True,
            tuned=("idle", *TUNED)),
    ]


def spread_rows():
    """Rows without an aim, but one: spinning must not lose."""
    found = []
    for size, text in ((16, "16 B"), (1024, "1 KiB")):
        for name, transport in (("rtt", "TCP"), ("unix", "Unix socket")):
            case = f"all-{name}-{size}"
            found.append(Row(f"round trip {text}, {transport}: p50", case, "p50_ns"))
            found.append(Row("same: CPU per request", case, "cpu_ns"))
    for text, case, _ in CPU_ROWS:
        found.append(Row(text, f"all-{case}", "cpu_ns"))
    return found + [
        Row("8 publishers to 8 subscribers, one shard: CPU per message", "all-shards", "cpu_ns",
            subject="midge-threads1", again=("midge-threads1-again", "midge-threads1"),
            still="midge-threads1-tuned"),
        Row("same, two shards", "all-shards", "cpu_ns", subject="midge-threads2",
            again=("midge-threads2-again", "midge-threads2"), still="midge-threads2-tuned"),
        Row("idle broker: share of a core", "idle", "cpu_share"),
    ]
