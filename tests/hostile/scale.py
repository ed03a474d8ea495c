"""Very many subscriptions, on one connection and on many: each is found, nobody else pays for them, and
when their connections close the memory comes back. Waits of others are printed, not judged."""

import threading
import time

from hostile import (
    MIB, SANITIZED, Broker, Failure, check, make_random, note, pub, raise_descriptor_limit, run, wait_until,
)  # fmt: skip

KIB = 1 << 10
TOTAL = 50000 if SANITIZED else 1000000
CONNECTIONS = 100 if SANITIZED else 1000
LARGE_TOTAL = 10000000
PIECE = 10000  # SUB lines in one send
# Bytes for each subscription, all that the process grew by included; the aim is 200.
EACH_MAX = 300
# What may be resident still after all have left: a share of what the process grew by, and what the allocator
# leaves at the free end of each shard's memory, for up to three of them.
KEPT_SHARE = 16
KEPT_BYTES = 3 * 4 * MIB
CLOSE_TIMEOUT_S = 120
PUBLISHED = 2000
CYCLES = 12
MASK_TOKENS = 10
# Of a mask, whose prefixes others share: 180 to 360 are usual, and the pages that are touched once.
MASK_EACH_MAX = 1024


def pattern(number):
    """Literals, and each kind of wildcard: `*` at the end, in the middle, `>`."""
    fleet = number % 1000
    kind = number % 10
    if kind == 7:
        return b"fleet.%d.*.%d.state" % (fleet, number)
    if kind == 8:
        return b"fleet.%d.unit.%d.>" % (fleet, number)
    if kind == 9:
        return b"fleet.%d.unit.%d.*" % (fleet, number)
    return b"fleet.%d.unit.%d.state" % (fleet, number)


def subject(number):
    return b"fleet.%d.unit.%d.state" % (number % 1000, number)


def subscribe(client, first, count):
    """Sids are the numbers."""
    for begin in range(first, first + count, PIECE):
        numbers = range(begin, min(begin + PIECE, first + count))
        client.send(b"".join(b"SUB %s %d\r\n" % (pattern(number), number) for number in numbers))
    answers = client.fence()
    check(not answers, f"answers to SUB: {answers[:3]}")


class Waiting:
    """A connection that waits for one PONG after the other, and remembers the longest wait."""

    def __init__(self, broker):
        self.client = broker.client()
        self.ended = threading.Event()
        self.longest_s = 0.0
        self.count = 0
        self.error = None
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self):
        try:
            while not self.ended.is_set():
                began = time.monotonic()
                check(self.client.fence() == [], "a message for a connection without subscriptions")
                self.longest_s = max(self.longest_s, time.monotonic() - began)
                self.count += 1
        except (Failure, OSError) as error:
            self.error = error

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, kind, error, trace):
        self.ended.set()
        self.thread.join()
        if kind is None:
            check(self.error is None, f"the connection that waits failed: {self.error}")
            check(self.count > 0, "no PONG came")
            self.client.close()


def check_deliveries(publisher, clients, owner_of, random, total):
    """Publish to subscriptions picked at random: each message comes once, under its own sid."""
    picked = [random.randrange(total) for _ in range(PUBLISHED)] + [0, total - 1]
    expected = {}
    for place, number in enumerate(picked):
        publisher.send(pub(subject(number), b"%d" % place))
        expected.setdefault(owner_of(number), []).append(
            ("MSG", subject(number), b"%d" % number, b"", b"%d" % place))
    publisher.fence()
    for index, client in enumerate(clients):
        got, wanted = client.messages(), expected.get(index, [])
        check(got == wanted, f"connection {index} received {len(got)}, {got[:2]}, not {wanted[:2]}")


def check_gone(broker, random, total):
    """Whoever asks those that have left hears at once that nobody listens."""
    requester = broker.client(no_responders=True)
    requester.send(b"SUB answers 1\r\n")
    for _ in range(200):
        name = subject(random.randrange(total))
        requester.send(pub(name, b"", b"answers"))
        frame = requester.next_frame()
        good = isinstance(frame, tuple) and frame[4].startswith(b"NATS/1.0 503")
        check(good, f"{name!r} is still subscribed: {frame!r}")
    requester.close()


def scale(total, connection_count):
    random = make_random()
    each = total // connection_count
    raise_descriptor_limit(connection_count + 1000)
    with Broker() as broker:
        clients = [broker.client() for _ in range(connection_count)]
        publisher = broker.client()
        before = broker.rss()
        began = time.monotonic()
        for index, client in enumerate(clients):
            subscribe(client, index * each, each)
        took = time.monotonic() - began
        grown = broker.rss() - before
        note(f"{total} subscriptions on {connection_count}: {total / took:.0f}/s as Python sends them, "
             f"{grown / total:.0f} bytes each")
        check(grown <= EACH_MAX * total or SANITIZED, f"{grown / total:.0f} bytes for each subscription")
        check_deliveries(publisher, clients, lambda number: number // each, random, total)
        fd_count = broker.fd_count()
        with Waiting(broker) as waiting:
            time.sleep(0.5)
            alone_s, waiting.longest_s = waiting.longest_s, 0.0
            for client in clients:
                client.close()
            took = wait_until(lambda: broker.fd_count() <= fd_count - connection_count + 1,
                              "the end of the connections", CLOSE_TIMEOUT_S)
            if not SANITIZED:
                allowed = before + grown // KEPT_SHARE + KEPT_BYTES
                took += wait_until(lambda: broker.rss() <= allowed, "memory back", CLOSE_TIMEOUT_S, 0.1)
        note(f"closed and back to {(broker.rss() - before) / grown:.1%} of {grown / MIB:.0f} MiB after "
             f"{took:.1f} s; longest wait for a PONG {waiting.longest_s * 1e3:.1f} ms, before the close "
             f"{alone_s * 1e3:.1f} ms")
        check_gone(broker, random, total)


def case_many_subscriptions_on_one_connection():
    scale(TOTAL, 1)


def case_many_subscriptions_on_many_connections():
    scale(TOTAL, CONNECTIONS)


def long_ten_million_subscriptions_on_one_connection():
    scale(LARGE_TOTAL, 1)


def long_ten_million_subscriptions_on_many_connections():
    scale(LARGE_TOTAL, CONNECTIONS)


def masks(tokens):
    """Every pattern that has some of the tokens replaced by `*`, the tokens themselves included."""
    return [
        b".".join(b"*" if mask >> place & 1 else token for place, token in enumerate(tokens))
        for mask in range(1 << len(tokens))
    ]


def matches(tokens, name):
    """The naive answer, for patterns without `>`."""
    others = name.split(b".")
    return len(tokens) == len(others) and all(a in (b"*", b) for a, b in zip(tokens, others))


def bomb(connection_count):
    """Each connection subscribes to every mask; what is published reaches exactly those that match."""
    words = [b"t%d" % place for place in range(MASK_TOKENS)]
    patterns = masks(words)
    split = [text.split(b".") for text in patterns]
    lines = b"".join(b"SUB %s %d\r\n" % (text, sid) for sid, text in enumerate(patterns))
    count = len(patterns) * connection_count
    names = [b".".join(words), b".".join(words[:-1]), b".".join([*words, b"more"]), b".".join(words[::-1])]
    names += [b".".join([*words[:place], b"x", *words[place + 1 :]]) for place in range(MASK_TOKENS)]
    with Broker() as broker:
        pair = broker.client()
        before = broker.rss()
        clients = [broker.client() for _ in range(connection_count)]
        for client in clients:
            client.send(lines)
            check(client.fence() == [], "a mask was refused")
        grown = broker.rss() - before
        note(f"{count} masks on {connection_count}: {grown / count:.0f} bytes each")
        check(grown <= MASK_EACH_MAX * count or SANITIZED, f"{grown / count:.0f} bytes for each mask")
        for name in names:
            wanted = sorted(sid for sid, tokens in enumerate(split) if matches(tokens, name))
            pair.send(pub(name, b"x"))
            pair.fence()
            for client in clients:
                got = sorted(int(frame[2]) for frame in client.messages())
                check(got == wanted, f"{name!r} reached {len(got)} of {len(wanted)} subscriptions")
        after = []
        for _ in range(CYCLES):
            unsubscribe_all(clients, len(patterns))
            for name in names:
                pair.send(pub(name, b"x"))
            pair.fence()
            for client in clients:
                check(client.messages() == [], "delivered after UNSUB")
                client.send(lines)
                check(client.fence() == [], "a mask was refused the next time")
            after.append(broker.rss())
        more = after[-1] - after[1]
        note(f"{CYCLES} times UNSUB and SUB of all: {more / KIB:.0f} KiB more")
        good = more <= CYCLES // 4 * grown + MIB or SANITIZED
        check(good, "the memory of what was unsubscribed is not used again")


def unsubscribe_all(clients, count):
    for client in clients:
        client.send(b"".join(b"UNSUB %d\r\n" % sid for sid in range(count)))
        check(client.fence() == [], "an answer to UNSUB")


def case_every_mask_of_ten_tokens_on_one_connection():
    bomb(1)


def case_every_mask_of_ten_tokens_on_eight_connections():
    bomb(8)


if __name__ == "__main__":
    run(globals())
