"""What the scenarios and the roles of a pair (pair.py) share: checks, a connection, a fence."""

import asyncio
import os

import nats
from nats.errors import NoRespondersError

WAIT_S = 10
QUIET_S = 0.2


def check(condition, text):
    if not condition:
        raise AssertionError(text)


def check_equal(got, wanted, text):
    check(got == wanted, f"{text}: got {got!r}, wanted {wanted!r}")


async def connect(**options):
    return await nats.connect(os.environ["NATS_URL"], reconnect_time_wait=0.1, **options)


class Collector:
    """Keeps the messages of one subscription, and waits for them."""

    def __init__(self, delay_s=0):
        self.messages = []
        self._delay_s = delay_s
        self._changed = asyncio.Condition()

    async def keep(self, message):
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        async with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def payloads(self):
        return [message.data for message in self.messages]

    def subjects(self):
        return [message.subject for message in self.messages]

    async def wait_for(self, count):
        async with self._changed:
            await asyncio.wait_for(self._changed.wait_for(lambda: len(self.messages) >= count), WAIT_S)


async def fence(connection):
    """The server has handled all that the connection sent before.

    flush() of nats-py is no fence: it writes its PING ahead of commands that still wait in the client.
    """
    try:
        await connection.request("fence.nobody", b"", timeout=WAIT_S)
        check(False, "somebody answers on fence.nobody")
    except NoRespondersError:
        pass
