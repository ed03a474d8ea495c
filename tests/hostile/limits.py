"""Limits that a peer can run into: descriptors, connections, sizes. Existing clients must not notice."""

import contextlib
import os
import resource
import socket
import time

from hostile import (
    SANITIZED, SLOW, Broker, Failure, check, note, pub, raise_descriptor_limit, run, wait_until,
)  # fmt: skip

REFUSAL = b"-ERR 'maximum connections exceeded'\r\n"


def limit_to(count):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def open_sockets(port, count):
    """Sockets that begin to connect and never wait; the kernel's queue holds them."""
    sockets = []
    for _ in range(count):
        item = socket.socket()
        item.setblocking(False)
        item.connect_ex(("127.0.0.1", port))
        sockets.append(item)
    return sockets


def read_answer(item):
    """Read until the broker closes, or is seen to go on: `refused` or `served`."""
    item.settimeout(10 * SLOW)
    data = item.recv(4096)
    item.setblocking(False)
    try:
        while more := item.recv(4096):
            data += more
    except BlockingIOError:
        if not data.endswith(REFUSAL):
            check(data.startswith(b"INFO {") and data.endswith(b"} \r\n"), f"a served client got {data!r}")
            return "served"
    check(data.startswith(b"INFO {"), f"a refused client got {data!r}")
    check(data.endswith(b"} \r\n" + REFUSAL), f"a refused client got {data[-90:]!r}")
    return "refused"


def exchange(publisher, subscriber, count):
    """Round trips through the broker; returns their median and slowest in milliseconds."""
    times = []
    for number in range(count):
        began = time.monotonic()
        publisher.send(pub(b"limits.alive", b"%d" % number))
        frame = subscriber.next_frame()
        check(frame is not None and frame[4] == b"%d" % number, f"message {number} did not come: {frame!r}")
        times.append((time.monotonic() - began) * 1000)
    times.sort()
    return times[len(times) // 2], times[-1]


def pair(broker):
    publisher, subscriber = broker.client(), broker.client()
    subscriber.send(b"SUB limits.> 1\r\n")
    subscriber.fence()
    return publisher, subscriber


def case_limit_of_descriptors_lowers_max_connections():
    raise_descriptor_limit(3000)
    with Broker(prepare=limit_to(256)) as broker:
        check("max_connections lowered to 192" in broker.log(), "no warning about the lowered limit")
        publisher, subscriber = pair(broker)
        before = exchange(publisher, subscriber, 200)
        began_cpu = broker.cpu_s()
        sockets = open_sockets(broker.port, 2000)
        during = exchange(publisher, subscriber, 200)
        note(f"round trip p50/max ms before: {before[0]:.2f}/{before[1]:.2f}")
        note(f"round trip p50/max ms during: {during[0]:.2f}/{during[1]:.2f}")
        answers = [read_answer(item) for item in sockets]
        held = answers.count("served")
        note(f"{held} served, {len(sockets) - held} refused, {broker.cpu_s() - began_cpu:.2f} s of CPU")
        check(held == 190, f"{held} connections beside the 2, where 192 are allowed")
        exchange(publisher, subscriber, 20)
        for item in sockets:
            item.close()
        wait_until(lambda: broker.fd_count() < 64, "the descriptors of closed connections")
        with broker.client():
            pass


def case_no_descriptor_left_for_accept():
    """Descriptors run out below max_connections, since the broker was started with 120 open ones."""
    raise_descriptor_limit(3000)
    others = [os.dup(0) for _ in range(120)]
    with Broker(prepare=limit_to(256), pass_fds=others) as broker:
        for item in others:
            os.close(item)
        publisher, subscriber = pair(broker)
        room = 256 - broker.fd_count()
        sockets = open_sockets(broker.port, 2000)
        wait_until(lambda: "Too many open files" in broker.log(), "the log line of the failed accept")
        exchange(publisher, subscriber, 50)
        cpu, began = broker.cpu_s(), time.monotonic()
        time.sleep(2)
        share = (broker.cpu_s() - cpu) / (time.monotonic() - began)
        note(f"{share * 100:.1f} % of a core while no descriptor is left")
        check(share <= 0.05 or SANITIZED, f"accept in trouble takes {share * 100:.1f} % of a core")
        meanwhile = exchange(publisher, subscriber, 200)
        note(f"round trip meanwhile p50/max ms: {meanwhile[0]:.2f}/{meanwhile[1]:.2f}")
        # Of those that came in first, some leave: as many others take their places within a second.
        for item in sockets[:20]:
            item.close()
        began = time.monotonic()
        for item in sockets[room : room + 20]:
            item.settimeout(10 * SLOW)
            check(item.recv(5) == b"INFO ", "a waiting client got no INFO after descriptors came free")
        took = time.monotonic() - began
        note(f"accept resumed within {took:.2f} s")
        check(took <= 1.0 * SLOW, f"accept resumed only after {took:.2f} s")
        check(broker.count_log("Accepting a connection failed") == 1, "more than one line within 10 s")
        for item in sockets:
            item.close()
        # The others closed while they waited: they are accepted, found closed, and freed.
        wait_until(lambda: broker.fd_count() < 256 - room + 1, "the descriptors of closed connections")
        with broker.client():
            pass
        exchange(publisher, subscriber, 20)


def served(broker):
    """A client that got its PONG, or None if it was refused."""
    client = broker.connect()
    try:
        client.handshake()
    except (Failure, OSError):
        client.close()
        return None
    return client


def case_max_connections_is_counted_exactly():
    with Broker(config="max_connections: 10") as broker:
        fd_count = broker.fd_count()
        for round_number in range(20):
            clients = [served(broker) for _ in range(10)]
            check(all(clients), f"round {round_number}: {clients.count(None)} of 10 were refused")
            with broker.connect() as extra:
                frames = extra.read_to_end()
                check(frames[0].startswith(b"INFO {"), f"no INFO first: {frames!r}")
                check(frames[1:] == [REFUSAL], f"refused with {frames[1:]!r}")
            for number, client in enumerate(clients):
                if number % 3 == 0:
                    client.reset()
                elif number % 3 == 1:
                    client.send(b"NONSENSE\r\n")
                    client.read_to_end()
                    client.close()
                else:
                    client.close()
            wait_until(lambda: broker.fd_count() <= fd_count, "the descriptors of closed connections")


def case_refused_connections_free_their_slots():
    """Many times max_connections, refused one after the other: none may be left without an answer."""
    count = 1500
    with Broker(config="max_connections: 1") as broker, broker.client() as client:
        refused = 0
        for _ in range(count):
            with socket.create_connection(("127.0.0.1", broker.port), timeout=10) as item:
                data = b""
                while more := item.recv(4096):
                    data += more
                refused += data.endswith(REFUSAL)
        note(f"{refused} of {count} refused with the text")
        check(refused == count, f"{count - refused} connections were closed without the text")
        client.fence()


def case_max_connections_zero_and_minus_one_refuse_everybody():
    for value in ("0", "-1"):
        with Broker(config=f"max_connections: {value}") as broker, broker.connect() as client:
            frames = client.read_to_end()
            check(frames[1:] == [REFUSAL], f"{value}: {frames!r}")


def answer_to(broker, data):
    with broker.connect() as client:
        # What is refused at its first line may be closed before the last byte is written.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.send(b'CONNECT {"verbose":false}\r\n' + data + b"PING\r\n")
        frames = []
        while (frame := client.next_frame()) is not None and frame != b"PONG\r\n":
            frames.append(frame)
        return frames[1:], frame is None


def case_max_payload_is_exact():
    default = 1 << 20  # of 0, as of no value. Source: nats-server v2.15.2, server/opts.go:6188
    cases = (
        (1024, 1023, True), (1024, 1024, True), (1024, 1025, False),
        (0, default, True), (0, default + 1, False), (-1, default + 1, True),
    )  # fmt: skip
    for limit, size, allowed in cases:
        with Broker(config=f"max_payload: {limit}") as broker:
            frames, closed = answer_to(broker, pub(b"a", b"x" * size))
            wanted = ([], False) if allowed else ([b"-ERR 'Maximum Payload Violation'\r\n"], True)
            answer = f"{frames!r}, closed {closed}"
            check((frames, closed) == wanted, f"max_payload {limit}, {size} bytes: {answer}")


def case_max_payload_above_max_pending_is_refused():
    with Broker(config="max_payload: 2048\nmax_pending: 1024", expect_start=False) as broker:
        status = broker.process.wait(10)
        broker.stopped = True
        note(broker.log().strip())
        check(status == 1, f"exit status {status}")
        check("max_payload" in broker.log() and "max_pending" in broker.log(), "the error names neither key")


def case_control_line_is_exact():
    for length, allowed in ((4095, True), (4096, True), (4097, False), (70000, False)):
        with Broker() as broker:
            line = b"SUB " + b"a" * (length - 2) + b" 1\r\n"
            frames, closed = answer_to(broker, line)
            wanted = ([], False) if allowed else ([b"-ERR 'maximum control line exceeded'\r\n"], True)
            check((frames, closed) == wanted, f"{length} bytes: {frames!r}, closed {closed}")


def case_sizes_that_overflow_are_refused():
    """CVE-2019-13126 and its kin: no size may crash the broker, or be taken for another one."""
    sizes = ("-1", "+2", "2147483648", "4294967296", "4294967298", "9223372036854775808",
             "18446744073709551618", "9" * 64, "1e3", "0x10", "2 2 2")  # fmt: skip
    with Broker() as broker, broker.client() as subscriber:
        subscriber.send(b"SUB > 1\r\n")
        subscriber.fence()
        for size in sizes:
            with broker.client(headers=True) as client:
                client.send(b"PUB a " + size.encode() + b"\r\nab\r\n")
                check(client.read_to_end() is not None and client.closed, f"size {size}: still open")
            with broker.client(headers=True) as client:
                client.send(b"HPUB a 2 " + size.encode() + b"\r\nab\r\n")
                check(client.read_to_end() is not None and client.closed, f"total size {size}: still open")
            with broker.client(headers=True) as client:
                client.send(b"HPUB a " + size.encode() + b" 2\r\nab\r\n")
                check(client.read_to_end() is not None and client.closed, f"header size {size}: still open")
        check(subscriber.messages() == [], "a message with a bad size was delivered")


if __name__ == "__main__":
    run(globals())
