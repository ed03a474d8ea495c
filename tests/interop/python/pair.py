"""nats-py as the responder or the requester of a pair. See run_pair.py for what the two say to each other.

nats-py keeps one value per header name, the last one that came.
"""

import asyncio
import sys

from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

from support import QUIET_S, WAIT_S, check, check_equal, connect, fence

COUNT = 200
JOB_COUNT = 300
PAYLOAD_MAX = 1024 * 1024
SENT_HEADERS = {"Alpha": "two", "alpha": "three", "Empty": "", "Text": "größer: 1, 2"}


async def take_all(sub):
    """The messages that wait in a subscription without call-back."""
    messages = []
    while sub.pending_msgs:
        messages.append(await sub.next_msg(timeout=WAIT_S))
    return messages


def number_headers(i):
    return {"Number": str(i)} if i % 2 else None


async def publish_numbers(connection, subject):
    for i in range(COUNT):
        await connection.publish(subject, b"%d" % i, headers=number_headers(i))


def judge_numbers(messages):
    """What ask.count answers."""
    for i, message in enumerate(messages):
        if (message.data, message.headers or None) != (b"%d" % i, number_headers(i)):
            return f"message {i} is {message.data!r} with {message.headers!r}"
    return f"{len(messages)} in order"


async def respond(connection):
    sink = await connection.subscribe("sink")
    work = await connection.subscribe("work", queue="workers")
    asked = await connection.subscribe("ask.*")
    await fence(connection)
    print("ready", flush=True)
    async for request in asked.messages:
        what = request.subject.removeprefix("ask.")
        if what == "upper":
            await request.respond(request.data.upper())
        elif what == "headers":
            headers = {**request.headers, "Answer": "2"}
            await connection.publish(request.reply, request.data, headers=headers)
        elif what == "send":
            await publish_numbers(connection, "source")
            await request.respond(b"")
        elif what == "count":
            await request.respond(judge_numbers(await take_all(sink)).encode())
        elif what == "share":
            await request.respond(b" ".join(message.data for message in await take_all(work)))
        elif what == "leave":
            await request.respond(b"bye")
            # To nats-py a message is done when the next one is asked for: a drain would wait for this one.
            await asked.unsubscribe()
            break
    await connection.drain()


async def request_reply(connection):
    for i in range(100):
        reply = await connection.request("ask.upper", b"one-%d" % i, timeout=WAIT_S)
        check_equal(reply.data, b"ONE-%d" % i, "reply")


async def requests_in_flight(connection):
    requests = [connection.request("ask.upper", b"many-%d" % i, timeout=WAIT_S) for i in range(100)]
    for i, reply in enumerate(await asyncio.gather(*requests)):
        check_equal(reply.data, b"MANY-%d" % i, "reply to one of many requests")


async def large_payload(connection):
    payload = bytes(ord("a") + i % 26 for i in range(PAYLOAD_MAX))
    reply = await connection.request("ask.upper", payload, timeout=WAIT_S)
    check(reply.data == payload.upper(), f"1 MiB came back changed, {len(reply.data)} bytes")


async def headers(connection):
    reply = await connection.request("ask.headers", b"body", timeout=WAIT_S, headers=SENT_HEADERS)
    check_equal(reply.headers, {**SENT_HEADERS, "Answer": "2"}, "headers of the reply")
    check_equal(reply.data, b"body", "payload after headers")


async def publish(connection):
    await publish_numbers(connection, "sink")
    reply = await connection.request("ask.count", b"", timeout=WAIT_S)
    check_equal(reply.data.decode(), f"{COUNT} in order", "what the responder received")


async def subscribe(connection):
    source = await connection.subscribe("source")
    reply = await connection.request("ask.send", b"", timeout=WAIT_S)
    check_equal(reply.data, b"", "reply without payload")
    check_equal(judge_numbers(await take_all(source)), f"{COUNT} in order", "what was received")


async def queue_group(connection):
    work = await connection.subscribe("work", queue="workers")
    await fence(connection)
    for i in range(JOB_COUNT):
        await connection.publish("work", b"%d" % i)
    reply = await connection.request("ask.share", b"", timeout=WAIT_S)
    theirs = reply.data.split()
    ours = [message.data for message in await take_all(work)]
    check(theirs and ours, f"{len(theirs)} and {len(ours)} messages: each member gets a share")
    check_equal(sorted(map(int, theirs + ours)), list(range(JOB_COUNT)), "each message reaches one member")


async def no_responders(connection):
    try:
        await connection.request("nobody", b"", timeout=WAIT_S)
        check(False, "a request that nobody serves must fail")
    except NoRespondersError:
        pass
    try:
        await connection.request("ask.silent", b"", timeout=QUIET_S)
        check(False, "a request that nobody answers must time out")
    except NoRespondersError:
        check(False, "a silent responder is still a responder")
    except NatsTimeoutError:
        pass


async def responder_leaves(connection):
    reply = await connection.request("ask.leave", b"", timeout=WAIT_S)
    check_equal(reply.data, b"bye", "last reply")
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await connection.request("ask.upper", b"", timeout=QUIET_S)
            except NoRespondersError:
                return
            except NatsTimeoutError:
                pass  # it came just before the responder left


async def request(connection):
    for scenario in (
        request_reply,
        requests_in_flight,
        large_payload,
        headers,
        publish,
        subscribe,
        queue_group,
        no_responders,
        responder_leaves,
    ):
        try:
            await scenario(connection)
        except Exception as error:
            sys.exit(f"fail {scenario.__name__}: {type(error).__name__}: {error}")
        print(f"ok {scenario.__name__}", flush=True)
    await connection.close()


async def run(role):
    await {"responder": respond, "requester": request}[role](await connect())
