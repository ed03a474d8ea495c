"""--threads auto: a busy thread gives a part of its publishers to another core; those that talk to each other
come back together when there is little to do, without a message lost, doubled or out of turn. --pin: threads
stay on their cores.

Nothing runs beside it: on a machine without an idle core connections stay where they are, on purpose.
"""

import os
import re
import threading
from pathlib import Path

from hostile import Broker, Ledger, Skip, check, note, pub, run, sealed, wait_until

MOVED = re.compile(r'cid:(\d+) - (?:".*" - )?Client connection moved to thread (\d+)')
FLOODS = 4
PATIENCE_S = 60


class Flood(threading.Thread):
    """Publishes to nobody, as fast as the broker reads, from a buffer made beforehand."""

    def __init__(self, broker, number):
        super().__init__(daemon=True)
        self.client = broker.client()
        self.chunk = b"PUB flood.%d 4\r\nabcd\r\n" % number * 8192
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.is_set():
            self.client.send(self.chunk)

    def stop(self):
        self.stopping.set()
        self.join()
        self.client.fence()


def threads_of(broker):
    """Where each client is that ever moved: its number and the thread's."""
    return {int(cid): int(thread) for cid, thread in MOVED.findall(broker.log())}


def away(broker):
    return [cid for cid, thread in threads_of(broker).items() if thread != 0]


def flood_until_spread(broker):
    """Clients 1 to FLOODS flood until some of them are on another thread."""
    floods = [Flood(broker, number) for number in range(FLOODS)]
    for flood in floods:
        flood.start()
    try:
        took_s = wait_until(lambda: away(broker), "a client on another thread", PATIENCE_S)
    finally:
        for flood in floods:
            flood.stop()
    note(f"{len(away(broker))} of {FLOODS} publishers on another thread after {took_s:.1f} s")
    return [flood.client for flood in floods]


def need_cores():
    if len(os.sched_getaffinity(0)) < 2:
        raise Skip("needs two cores")


def case_spreads_and_comes_back():
    need_cores()
    with Broker("--threads", "auto", "-D") as broker:
        clients = flood_until_spread(broker)
        moved = away(broker)
        check(len(moved) < FLOODS, "all publishers moved: the load only changed its place")
        stayed = next(cid for cid in range(1, FLOODS + 1) if cid not in moved)
        publisher, subscriber = clients[moved[0] - 1], clients[stayed - 1]
        subscriber.send(b"SUB pair 1\r\n")
        subscriber.fence()
        ledger, sequence = Ledger(), 0

        def together():
            nonlocal sequence
            publisher.send(pub(b"pair", sealed(1, sequence)))
            sequence += 1
            publisher.fence()
            for frame in subscriber.messages():
                ledger.take(frame[4])
            threads = threads_of(broker)
            return threads.get(moved[0], 0) == threads.get(stayed, 0)

        took_s = wait_until(together, "partners on one thread", PATIENCE_S)
        check(ledger.count == sequence, f"{ledger.count} of {sequence} messages came")
        note(f"partners on one thread after {took_s:.1f} s and {sequence} messages")


def case_shrinks_to_one_thread():
    need_cores()
    with Broker("--threads", "auto", "-D") as broker:
        clients = flood_until_spread(broker)

        def back():
            for client in clients:
                client.fence()
            return not away(broker)

        took_s = wait_until(back, "all clients on the first thread", PATIENCE_S)
        note(f"all on the first thread after {took_s:.1f} s")


def case_stays_where_it_is_told():
    """A number of threads is not auto: nobody moves."""
    with Broker("--threads", "1", "-D") as broker:
        floods = [Flood(broker, number) for number in range(FLOODS)]
        for flood in floods:
            flood.start()
        wait_until(lambda: broker.cpu_s() > 1.5, "1.5 s of processor time", PATIENCE_S)
        for flood in floods:
            flood.stop()
        check(not threads_of(broker), "a client moved")


def bound_cores(broker):
    """Cores of those threads that may use one only; the kernel's own workers are not ours."""
    cores = []
    for task in Path(f"/proc/{broker.process.pid}/task").iterdir():
        allowed = os.sched_getaffinity(int(task.name))
        if len(allowed) == 1 and not (task / "comm").read_text().startswith("iou-"):
            cores += allowed
    return sorted(cores)


def case_pins_each_thread_to_a_core_in_turn():
    need_cores()
    cores = sorted(os.sched_getaffinity(0))
    count = len(cores) + 1
    with Broker("--threads", str(count), "--pin") as broker:
        expected = sorted(cores[i % len(cores)] for i in range(count))
        check(bound_cores(broker) == expected, f"bound to {bound_cores(broker)}, not {expected}")
    with Broker("--threads", str(count)) as broker:
        check(not bound_cores(broker), "bound without having been told to")


if __name__ == "__main__":
    run(globals())
