"""The end of the broker: whole frames only, exit status 0, in time, whatever the clients do; and the
signals that do not end it."""

import os
import re
import selectors
import signal
import tempfile
import threading
import time
from pathlib import Path

from hostile import (
    MIB, SLOW, Broker, Client, Ledger, check, note, pub, raise_descriptor_limit, run, sealed,
    wait_until,
)  # fmt: skip

END_S = 2.0


class Crowd:
    """Many subscribers read by one loop; each must end at a frame's end, and have missed nothing before."""

    def __init__(self, broker, count, subject=b"end.*"):
        self.selector = selectors.DefaultSelector()
        self.ledgers = {}
        for _ in range(count):
            client = broker.client()
            client.send(b"SUB %s 1\r\n" % subject)
            client.fence()
            client.socket.setblocking(False)
            self.ledgers[client] = Ledger()
            self.selector.register(client.socket, selectors.EVENT_READ, client)
        self.open = count
        self.torn = 0

    def read(self, timeout_s):
        for key, _ in self.selector.select(timeout_s):
            client = key.data
            if not client.receive(1 << 18):
                self.selector.unregister(client.socket)
                self.open -= 1
                self.torn += not client.frames.at_boundary()
            for frame in client.waiting:
                if isinstance(frame, tuple):
                    self.ledgers[client].take(frame[4])
            client.waiting.clear()

    def count(self):
        return sum(ledger.count for ledger in self.ledgers.values())


class Publisher(threading.Thread):
    """Publishes sealed messages until the broker closes the connection."""

    def __init__(self, broker, number, subject, size, pause_s):
        super().__init__(daemon=True)
        self.client = broker.client()
        self.number, self.subject, self.size, self.pause_s = number, subject, size, pause_s

    def run(self):
        sequence = 0
        try:
            while True:
                body = b"x" * (sequence * 37 % self.size)
                self.client.send(pub(self.subject, sealed(self.number, sequence, body)))
                sequence += 1
                time.sleep(self.pause_s)
        except OSError:
            self.client.close()


def end_under_traffic(number, stalled_count):
    raise_descriptor_limit(3000)
    with Broker() as broker:
        crowd = Crowd(broker, 1000 - stalled_count)
        stalled = []
        for _ in range(stalled_count):
            client = Client(broker.port, receive_buffer=4096)
            client.handshake()
            client.send(b"SUB > 1\r\n")
            client.fence()
            stalled.append(client)
        for publisher in range(3):
            Publisher(broker, publisher, b"end.%d" % publisher, (300, 3000, 30000)[publisher], 0.1).start()
        if stalled_count:
            # The stalled ones have something of their own that cannot be sent.
            flood = broker.client()
            flood.send(pub(b"stalled", b"x" * 100000) * 80)
            flood.fence()
        began = time.monotonic()
        while time.monotonic() - began < 1.5:
            crowd.read(0.05)
        broker.process.send_signal(number)
        began = time.monotonic()
        ended = None
        while crowd.open and time.monotonic() - began < 20:
            crowd.read(0.05)
            if ended is None and not broker.alive():
                ended = time.monotonic() - began
        broker.stop()
        took = ended if ended is not None else time.monotonic() - began
        note(f"{crowd.count()} messages to {len(crowd.ledgers)} readers; ended {took:.2f} s after the signal")
        check(crowd.open == 0, f"{crowd.open} connections did not end")
        check(crowd.torn == 0, f"{crowd.torn} of {len(crowd.ledgers)} readers got a torn frame")
        check(took <= END_S * SLOW, f"it took {took:.2f} s to end")


def case_sigterm_under_traffic_tears_no_frame():
    end_under_traffic(signal.SIGTERM, 0)


def case_sigint_with_stalled_readers_ends_in_time():
    end_under_traffic(signal.SIGINT, 50)


def case_idle_broker_ends_at_once():
    """More closed slots than one grace period frees; found as a shutdown that never ended."""
    raise_descriptor_limit(3000)
    for count in (0, 1, 100, 1100, 1500):
        with Broker() as broker:
            clients = [broker.connect() for _ in range(count)]
            for client in clients:
                client.next_frame()
            took = broker.stop(timeout_s=5)
            note(f"{count} connections: {took * 1000:.0f} ms")
            check(took <= 0.4 * SLOW, f"{count} idle connections: {took:.2f} s")
            for client in clients:
                client.read_to_end()
                client.close()


def case_connection_that_already_closes_does_not_hold_up_the_end():
    """A client that broke the protocol and does not read its -ERR is given five seconds; an end is not."""
    with Broker() as broker:
        client = Client(broker.port, receive_buffer=4096)
        client.handshake()
        client.send(b"SUB a 1\r\n")
        client.fence()
        publisher = broker.client()
        publisher.send(pub(b"a", b"x" * 100000) * 80)
        publisher.fence()
        client.send(b"NONSENSE\r\n")
        time.sleep(0.2)
        took = broker.stop()
        note(f"ended {took:.2f} s after the signal")
        check(took <= END_S * SLOW, f"it took {took:.2f} s to end")



def case_reader_that_reads_slowly_but_steadily_gets_whole_frames():
    """More is owed than goes out in a second: what comes ends with a whole frame all the same."""
    with Broker(config="no_fast_producer_stall: true") as broker:
        readers = {}
        for number in range(4):
            client = Client(broker.port, receive_buffer=65536)
            client.handshake()
            client.send(b"SUB a 1\r\n")
            client.fence()
            readers[client] = (Ledger(), 8192 << number)
        publisher = broker.client()
        for sequence in range(1000):
            publisher.send(pub(b"a", sealed(0, sequence, b"x" * (sequence * 37 % 30000))))
        publisher.fence()
        broker.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        ended = None
        left = dict(readers)
        while left:
            for client, (ledger, length) in list(left.items()):
                if not client.receive(length):
                    del left[client]
                for frame in client.waiting:
                    if isinstance(frame, tuple):
                        ledger.take(frame[4])
                client.waiting.clear()
            time.sleep(0.005)
            if ended is None and not broker.alive():
                ended = time.monotonic() - began
        counts = [ledger.count for ledger, _ in readers.values()]
        broker.stop()
        ended = ended or time.monotonic() - began
        note(f"{counts} of 1000 messages came; the broker ended {ended:.2f} s after the signal")
        torn = [client for client in readers if not client.frames.at_boundary()]
        check(not torn, f"{len(torn)} of 4 readers got a torn frame")
        check(min(counts) < 1000, "every reader was fast enough: nothing was shown")
        check(ended <= END_S * SLOW, "it took too long")


def case_paused_publisher_does_not_hold_up_the_end():
    with Broker() as broker:
        stalled = Client(broker.port, receive_buffer=4096)
        stalled.handshake()
        stalled.send(b"SUB a 1\r\n")
        stalled.fence()
        publisher = broker.client()
        data = pub(b"a", b"x" * 65536)
        sent = 0
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < 0.3 and sent < 64 * MIB:
            taken = publisher.send_part(data)
            check(taken is not None, "the publisher was closed")
            if taken:
                sent += taken
                data = data[taken:] + data[:taken]
                idle_since = time.monotonic()
            else:
                time.sleep(0.01)
        note(f"publisher held back after {sent / MIB:.1f} MiB")
        check(sent < 40 * MIB, "the publisher was not held back")
        took = broker.stop()
        note(f"ended {took:.2f} s after the signal")
        check(took <= END_S * SLOW, f"it took {took:.2f} s to end")


def case_repeated_and_mixed_signals_are_harmless():
    with Broker() as broker:
        stalled = Client(broker.port, receive_buffer=4096)
        stalled.handshake()
        stalled.send(b"SUB a 1\r\n")
        stalled.fence()
        publisher = broker.client()
        publisher.send(pub(b"a", b"x" * 100000) * 50)
        publisher.fence()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE):
            for _ in range(5):
                broker.process.send_signal(number)
                publisher.fence()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM) * 10:
            broker.process.send_signal(number)
            time.sleep(0.005)
        took = broker.stop()
        check(took <= END_S * SLOW, f"it took {took:.2f} s to end")


def case_sigint_works_where_the_parent_had_it_ignored():
    """As a shell does for a job in the background."""

    def ignore():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})

    with Broker(prepare=ignore) as broker, broker.client():
        broker.stop(signal.SIGINT, timeout_s=5)


def case_sigusr1_reopens_the_log():
    with tempfile.TemporaryDirectory() as folder:
        path, moved = Path(folder) / "log", Path(folder) / "log.1"
        with Broker("-D", "-l", str(path), log_path=path) as broker:
            with broker.client():
                wait_until(lambda: "cid:1" in path.read_text(), "the first client in the log")
            path.rename(moved)
            with broker.client():
                wait_until(lambda: "cid:2" in moved.read_text(), "the second client in the moved file")
            broker.process.send_signal(signal.SIGUSR1)
            wait_until(path.exists, "a new log file")
            with broker.client():
                wait_until(lambda: "cid:3" in path.read_text(), "the third client in the new file")
            check("cid:3" not in moved.read_text(), "the moved file still gets lines")


def case_log_that_nobody_reads_does_not_hold_up_anything():
    """Standard error is a pipe that is full."""
    read_end, write_end = os.pipe()
    with tempfile.TemporaryDirectory() as folder:
        with Broker("-DV", "--ports_file_dir", folder, stderr=write_end, expect_start=False) as broker:
            ports = Path(folder) / f"nats-server_{broker.process.pid}.ports"
            wait_until(ports.exists, "the ports file")
            broker.port = int(re.search(r":(\d+)", ports.read_text()).group(1))
            with broker.client() as client:
                client.send(b"SUB a 1\r\n" + pub(b"a", b"x" * 100) * 5000)
                messages = client.messages()
                check(len(messages) == 5000, f"{len(messages)} of 5000 messages came")
            took = broker.stop()
            note(f"ended {took:.2f} s after the signal")
            check(took <= END_S * SLOW, f"it took {took:.2f} s to end")
    os.close(read_end)
    os.close(write_end)



def case_closed_standard_streams_leak_no_log_into_sockets():
    def close_streams():
        for fd in (0, 1, 2):
            os.close(fd)

    with tempfile.TemporaryDirectory() as folder:
        with Broker(
            "-DV", "--ports_file_dir", folder, prepare=close_streams, expect_start=False
        ) as broker:
            ports = Path(folder) / f"nats-server_{broker.process.pid}.ports"
            wait_until(ports.exists, "the ports file")
            broker.port = int(re.search(r":(\d+)", ports.read_text()).group(1))
            clients = [broker.client() for _ in range(5)]
            for client in clients:
                client.send(b"SUB a 1\r\n" + pub(b"b", b"x"))
                client.fence()
            clients[0].send(pub(b"a", b"x"))
            clients[0].fence()
            for client in clients[1:]:
                check(client.messages() == [("MSG", b"a", b"1", b"", b"x")], "other bytes than the message")


if __name__ == "__main__":
    run(globals())
