"""Clients that do not read, or read slowly: they pay for it themselves, and in bounded memory."""

import threading
import time

from hostile import (
    MIB, SANITIZED, SLOW, Broker, Client, Failure, Ledger, check, note, pub, run, sealed, wait_until,
)  # fmt: skip

# What a broker may hold beside the bytes that it owes: reuse lists (8 MiB), and what a burst touched.
RSS_SLACK = 16 * MIB
# Blocks are powers of two: a message of 16 KiB and its arguments lies in one of 32 KiB.
ROUNDING = 2


class Reader(threading.Thread):
    """A subscriber on a thread of its own that keeps a ledger; slow if told how many bytes a second."""

    def __init__(self, broker, subject, wanted, rate=None):
        super().__init__(daemon=True)
        self.client = Client(broker.port, receive_buffer=65536 if rate else None)
        self.client.handshake()
        self.client.send(b"SUB %s 1\r\n" % subject)
        self.client.fence()
        self.ledger, self.wanted, self.rate = Ledger(), wanted, rate
        self.wrong = None
        self.start()

    def run(self):
        length = 16384 if self.rate else 1 << 18
        try:
            while self.ledger.count < self.wanted:
                check(self.client.receive(length), f"closed ({self.client.closed})")
                for frame in self.client.waiting:
                    if isinstance(frame, tuple):
                        self.ledger.take(frame[4])
                self.client.waiting.clear()
                if self.rate:
                    time.sleep(length / self.rate)
        except (Failure, OSError) as error:
            self.wrong = f"after {self.ledger.count} of {self.wanted} messages: {error}"

    def finish(self, timeout_s=30):
        self.join(timeout_s)
        check(not self.is_alive(), f"{self.ledger.count} of {self.wanted} messages within {timeout_s} s")
        check(self.wrong is None, self.wrong)


class Peak(threading.Thread):
    """The highest resident size of a broker while this runs."""

    def __init__(self, broker):
        super().__init__(daemon=True)
        self.broker, self.highest, self.ended = broker, 0, False
        self.first = broker.rss()
        self.start()

    def run(self):
        while not self.ended:
            self.highest = max(self.highest, self.broker.rss())
            time.sleep(0.005)

    def growth(self):
        self.ended = True
        self.join()
        return self.highest - self.first


def wait_for_end(broker, fd_count):
    """Wait until the broker has given up a connection; its peer sees that only when it reads."""
    return wait_until(lambda: broker.fd_count() <= fd_count, "the end of the stalled subscriber")


def stalled_subscriber(broker, subject):
    client = Client(broker.port, receive_buffer=4096)
    client.handshake()
    client.send(b"SUB %s 1\r\n" % subject)
    client.fence()
    return client


def publish_until_held(publisher, data, idle_s=0.3, bytes_max=256 * MIB):
    """Publish one message again and again until nothing is taken any more; returns bytes and the rest."""
    sent = 0
    rest = data
    idle_since = time.monotonic()
    while sent < bytes_max and time.monotonic() - idle_since < idle_s:
        taken = publisher.send_part(rest)
        check(taken is not None, "the publisher was closed")
        if taken == 0:
            time.sleep(0.005)
            continue
        sent += taken
        rest = rest[taken:] or data
        idle_since = time.monotonic()
    return sent, rest if rest is not data else b""


def judge_growth(grown, allowed, what):
    note(f"{what}: RSS grew by {grown / MIB:.1f} MiB, allowed {allowed / MIB:.0f} MiB")
    check(grown <= allowed or SANITIZED, f"{what}: RSS grew by {grown / MIB:.1f} MiB")


def case_stalled_subscriber_is_closed_and_the_others_lose_nothing():
    count, size, limit = 5000, 16384, 16 * MIB
    with Broker(config=f"max_pending: {limit}") as broker:
        stalled = stalled_subscriber(broker, b"s")
        readers = [Reader(broker, b"s", count) for _ in range(4)]
        peak = Peak(broker)
        publisher = broker.client()
        fd_count = broker.fd_count()
        for sequence in range(count):
            publisher.send(pub(b"s", sealed(1, sequence, b"x" * size)))
            # Readers that share an interpreter are not equally fast: none may fall behind by max_pending.
            while sequence - min(reader.ledger.count for reader in readers) > limit // size // 2:
                check(all(reader.wrong is None for reader in readers), "a fast reader was closed")
                time.sleep(0.001)
        publisher.fence()
        for reader in readers:
            reader.finish()
        wait_for_end(broker, fd_count - 1)
        what = f"{count * size / MIB:.0f} MiB to 4 fast and 1 stalled"
        judge_growth(peak.growth(), ROUNDING * limit + RSS_SLACK, what)
        frames = stalled.read_to_end()
        check(not any(frame[:4] == b"-ERR" for frame in frames), "a slow consumer got an -ERR")
        line = f"Slow Consumer Detected: MaxPending of {limit} Exceeded"
        broker.expect_once(line)


def case_stalled_subscriber_is_closed_by_write_deadline():
    with Broker(config='write_deadline: "1s"') as broker:
        stalled = stalled_subscriber(broker, b"s")
        publisher = broker.client()
        fd_count = broker.fd_count()
        for _ in range(80):
            publisher.send(pub(b"s", b"x" * 65536))
        publisher.fence()
        took = wait_for_end(broker, fd_count - 1)
        note(f"closed after {took:.2f} s at a deadline of 1 s")
        check(0.5 <= took <= 1.5 * SLOW, f"closed after {took:.2f} s")
        line = "Slow Consumer Detected: WriteDeadline of 1000ms exceeded"
        broker.expect_once(line)
        publisher.fence()
        stalled.close()


def flood(client, data, limit):
    """Send until the broker closes; returns the bytes it took."""
    sent = 0
    try:
        while sent < limit:
            client.send(data)
            sent += len(data)
    except OSError:
        return sent
    raise Failure(f"still open after {sent / MIB:.0f} MiB")


def case_ping_flood_without_reading_ends_at_max_pending():
    """CVE-2025-21605 of redis: output that grows while the peer only sends."""
    limit = 4 * MIB
    for connect in (b"", b'CONNECT {"verbose":false}\r\n', b'CONNECT {"verbose":true}\r\n'):
        with Broker(config=f"max_pending: {limit}") as broker, broker.client() as other:
            client = Client(broker.port, receive_buffer=4096)
            client.send(connect)
            peak = Peak(broker)
            sent = flood(client, b"PING\r\n" * 10000, 64 * MIB)
            what = f"{sent / MIB:.1f} MiB of PING after {connect.decode()!r}"
            judge_growth(peak.growth(), limit + RSS_SLACK, what)
            broker.expect_once("Slow Consumer Detected: MaxPending")
            other.fence()


def case_flood_of_refusals_without_reading_ends_at_max_pending():
    """Each bad subject is answered by an -ERR of its own length."""
    limit = 4 * MIB
    with Broker(config=f"max_pending: {limit}") as broker, broker.client() as other:
        client = Client(broker.port, receive_buffer=4096)
        client.send(b'CONNECT {"verbose":false,"pedantic":true}\r\n')
        peak = Peak(broker)
        sent = flood(client, (b"PUB _GR_." + b"a" * 4000 + b" 0\r\n\r\n") * 20, 256 * MIB)
        judge_growth(peak.growth(), limit + RSS_SLACK, f"{sent / MIB:.1f} MiB of refused PUB")
        other.fence()


def case_unauthenticated_ping_flood_ends_at_once():
    with Broker("--user", "u", "--pass", "p") as broker:
        client = Client(broker.port, receive_buffer=4096)
        peak = Peak(broker)
        sent = flood(client, b"PING\r\n" * 10000, 64 * MIB)
        judge_growth(peak.growth(), RSS_SLACK, f"{sent / MIB:.1f} MiB of PING before CONNECT")


def case_stalled_subscriber_that_is_its_own_publisher():
    """CVE-2026-23479 of redis: a client is closed inside its own operation."""
    for setting in ("no_fast_producer_stall: true", 'write_deadline: "500ms"'):
        with Broker(config=f"max_pending: 2MB\n{setting}") as broker:
            reader = Reader(broker, b"own", 1000000)
            client = stalled_subscriber(broker, b"own")
            client.send(b"SUB own 2\r\nSUB > 3\r\n")
            sequence = 0
            try:
                while sequence < 3000:
                    client.send(pub(b"own", sealed(1, sequence, b"x" * 30000)))
                    sequence += 1
                raise Failure("its own stalled consumer stays open")
            except OSError:
                note(f"{setting}: closed after {sequence} messages")
            wait_until(lambda: broker.count_log("Slow Consumer") >= 1, "the log line")
            time.sleep(0.1)
            check(reader.is_alive(), f"the other subscriber: {reader.wrong}")
            with broker.client() as other:
                other.fence()


def case_slow_but_steady_subscribers_lose_nothing():
    count, size = 12000, 1500
    with Broker(config="max_pending: 8MB\nmax_payload: 64KB") as broker:
        readers = [Reader(broker, b"s", count, rate=3 * MIB) for _ in range(8)]
        peak = Peak(broker)
        publisher = broker.client()
        began = time.monotonic()
        for sequence in range(count):
            publisher.send(pub(b"s", sealed(1, sequence, b"x" * size)))
        publisher.fence()
        took = time.monotonic() - began
        for reader in readers:
            reader.finish()
        note(f"{count} messages to 8 readers of 3 MiB/s: publisher took {took:.1f} s")
        judge_growth(peak.growth(), 8 * 8 * MIB + RSS_SLACK, "8 slow readers")
        check(broker.count_log("Slow Consumer") == 0, "a steady reader was closed")


def case_a_small_max_pending_holds_fast_publishers_in_time():
    """What was received of a publisher before it is held back must not go over max_pending."""
    size, count, publishers = 1000, 2000, 4
    with Broker(config="max_pending: 512KB\nmax_payload: 64KB") as broker:
        reader = Reader(broker, b"s", publishers * count, rate=16 * MIB)
        writers = []
        for number in range(publishers):
            data = b"".join(pub(b"s", sealed(number, i, b"x" * size)) for i in range(count))
            writers.append(threading.Thread(target=broker.client().send, args=(data,), daemon=True))
        for writer in writers:
            writer.start()
        reader.finish(60)
        for writer in writers:
            writer.join(60)
        note(f"{reader.ledger.count} messages of {publishers} publishers")
        check(broker.count_log("Slow Consumer") == 0, "a steady reader was closed")


def case_held_publisher_goes_on_when_the_only_subscriber_drains():
    with Broker() as broker:
        subscriber = stalled_subscriber(broker, b"s")
        publisher = broker.client()
        data = pub(b"s", b"x" * 65536)
        sent, rest = publish_until_held(publisher, data)
        note(f"held back after {sent / MIB:.1f} MiB")
        check(sent < 40 * MIB, "the publisher was not held back")
        got = []
        began = time.monotonic()
        subscriber.send(b"PING\r\n")
        writer = threading.Thread(target=publisher.send, args=(rest + data * 100,), daemon=True)
        writer.start()
        wanted = (sent + len(rest)) // len(data) + 100
        while len(got) < wanted:
            frame = subscriber.next_frame()
            check(frame is not None, f"the subscriber was closed after {len(got)} of {wanted} messages")
            if isinstance(frame, tuple):
                got.append(len(frame[4]))
        took = time.monotonic() - began
        note(f"{wanted} messages arrived {took:.2f} s after reading began")
        check(set(got) == {65536}, "messages of another size")
        check(took < 9, "the publisher went on only after write_deadline")


def case_no_fast_producer_stall_closes_the_subscriber_instead():
    with Broker(config="no_fast_producer_stall: true\nmax_pending: 4MB") as broker:
        subscriber = stalled_subscriber(broker, b"s")
        publisher = broker.client()
        fd_count = broker.fd_count()
        began = time.monotonic()
        sent, _ = publish_until_held(publisher, pub(b"s", b"x" * 65536), idle_s=1, bytes_max=64 * MIB)
        note(f"{sent / MIB:.1f} MiB taken in {time.monotonic() - began:.2f} s")
        check(sent >= 64 * MIB, "the publisher was held back")
        wait_for_end(broker, fd_count - 1)
        subscriber.close()
        broker.expect_once("Slow Consumer Detected: MaxPending")


def case_a_large_message_is_held_at_about_its_own_size():
    """What max_memory counts must be near what is held: here 52 MiB in messages just over 8 KiB."""
    size = 8300
    config = "max_memory: 160MB\nmax_pending: 64MB\nno_fast_producer_stall: true"
    with Broker(config=config) as broker:
        stalled = stalled_subscriber(broker, b"s")
        publisher = broker.client()
        before = broker.rss()
        publisher.send(pub(b"s", b"x" * size) * (52 * MIB // size))
        publisher.fence()
        grown = broker.rss() - before
        judge_growth(grown, ROUNDING * 64 * MIB + RSS_SLACK, "52 MiB for one stalled subscriber")
        check("max_memory" not in broker.log(), "max_memory was reached")
        stalled.close()


def case_publisher_that_reads_only_after_it_has_written():
    """Its own subscription fills while it writes. nats-server takes all of it up to max_pending."""
    count = 200
    with Broker() as broker, broker.client() as client:
        client.send(b"SUB own 1\r\n")
        began = time.monotonic()
        for sequence in range(count):
            client.send(pub(b"own", sealed(1, sequence, b"x" * 100000)))
        ledger = Ledger()
        for message in client.messages():
            ledger.take(message[4])
        note(f"{ledger.count} of {count} messages of 100 kB to itself in {time.monotonic() - began:.2f} s")
        check(ledger.count == count, "messages are missing")


def case_held_publisher_is_not_taken_for_stale():
    """It cannot answer: it is in the middle of a message that the broker does not read on."""
    config = 'ping_interval: "400ms"\nping_max: 2\nwrite_deadline: "4s"'
    with Broker(config=config) as broker:
        stalled = stalled_subscriber(broker, b"s")
        publisher = broker.client()
        sent, rest = publish_until_held(publisher, pub(b"s", b"x" * 65536))
        began = time.monotonic()
        while time.monotonic() - began < 3:
            stalled.send(b"PONG\r\n")  # alive, though it does not read
            publisher.socket.settimeout(0.1)
            try:
                check(publisher.receive(), f"closed ({publisher.closed})")
            except Failure as error:
                if "time limit" not in str(error):
                    raise
            errors = [frame for frame in publisher.waiting if frame[:4] == b"-ERR"]
            check(not errors, f"closed with {errors} while it was held back")
            publisher.waiting.clear()
        note(f"held back after {sent / MIB:.1f} MiB, open after 3 s, {len(rest)} bytes left to send")
        stalled.close()


if __name__ == "__main__":
    run(globals())
