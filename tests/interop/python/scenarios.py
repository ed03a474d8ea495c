"""The interop scenarios with nats-py. See run_client.py for how it is run, run_pair.py for the roles.

    scenarios.py [responder|requester]

nats-py keeps one value per header name, so values that share a name are left to the other clients; here
names that differ in case only, an empty value and one outside ASCII must survive.
"""

import asyncio
import sys

from nats.errors import MaxPayloadError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeoutError

import pair
from support import QUIET_S, WAIT_S, Collector, check, check_equal, connect, fence

PAYLOAD_MAX = 1024 * 1024


async def settle(*connections):
    """All that was published before this reaches its subscribers, and anything surplus would show up."""
    for connection in connections:
        await fence(connection)
    await asyncio.sleep(QUIET_S)


async def request_reply(near, far):
    async def upper(request):
        await request.respond(request.data.upper())

    async def silent(_request):
        pass

    await far.subscribe("rr.upper", cb=upper)
    await far.subscribe("rr.silent", cb=silent)
    await fence(far)
    for i in range(100):
        reply = await near.request("rr.upper", b"one-%d" % i, timeout=WAIT_S)
        check_equal(reply.data, b"ONE-%d" % i, "reply to a request alone")
    requests = [near.request("rr.upper", b"many-%d" % i, timeout=WAIT_S) for i in range(100)]
    for i, reply in enumerate(await asyncio.gather(*requests)):
        check_equal(reply.data, b"MANY-%d" % i, "reply to one of many requests")
    try:
        await near.request("rr.silent", b"", timeout=QUIET_S)
        check(False, "a request nobody answers must time out")
    except NoRespondersError:
        check(False, "a silent responder is still a responder")
    except NatsTimeoutError:
        pass


async def no_responders(near, far):
    try:
        await near.request("nr.nobody", b"", timeout=WAIT_S)
        check(False, "a request without a responder must fail")
    except NoRespondersError:
        pass
    service = await far.subscribe("nr.service", cb=Collector().keep)
    await fence(far)
    await service.unsubscribe()
    await fence(far)
    try:
        await near.request("nr.service", b"", timeout=WAIT_S)
        check(False, "a request to a service that left must fail")
    except NoRespondersError:
        pass


async def headers(near, far):
    sent = {"Alpha": "one", "alpha": "two", "Empty": "", "Text": "größer: 1, 2"}

    async def respond(request):
        check_equal(request.headers, sent, "headers of the request")
        await far.publish(request.reply, request.data, headers={"Answer": "yes", **request.headers})

    await far.subscribe("hd.request", cb=respond)
    await fence(far)
    reply = await near.request("hd.request", b"body", timeout=WAIT_S, headers=sent)
    check_equal(reply.headers, {"Answer": "yes", **sent}, "headers of the reply")
    check_equal(reply.data, b"body", "payload after headers")

    plain = Collector()
    await far.subscribe("hd.plain", cb=plain.keep)
    await fence(far)
    await near.publish("hd.plain", b"", headers={"Only": "header"})
    await near.publish("hd.plain", b"no header")
    await plain.wait_for(2)
    check_equal([m.headers for m in plain.messages], [{"Only": "header"}, None], "headers published")
    check_equal(plain.payloads(), [b"", b"no header"], "payloads published")


async def wildcards(near, far):
    patterns = {
        "wc.a.b": ["wc.a.b"],
        "wc.*.b": ["wc.a.b", "wc.c.b"],
        "wc.a.*": ["wc.a.b", "wc.a.d"],
        "*.a.b": ["wc.a.b"],
        "wc.>": ["wc.a", "wc.a.b", "wc.c.b", "wc.a.d", "wc.a.b.e"],
        "wc.a.>": ["wc.a.b", "wc.a.d", "wc.a.b.e"],
        "wc.*": ["wc.a"],
    }
    collectors = {pattern: Collector() for pattern in patterns}
    for pattern, collector in collectors.items():
        await far.subscribe(pattern, cb=collector.keep)
    await fence(far)
    for subject in ("wc", "wc.a", "wc.a.b", "wc.c.b", "wc.a.d", "wc.a.b.e", "wcx.a.b.c"):
        await near.publish(subject, b"")
    await settle(near, far)
    for pattern, wanted in patterns.items():
        check_equal(collectors[pattern].subjects(), wanted, f"subjects that reached {pattern}")


async def queue_groups(near, far):
    members = [Collector() for _ in range(3)]
    other_group, plain = Collector(), Collector()
    await near.subscribe("qg.*", queue="workers", cb=members[0].keep)
    await far.subscribe("qg.*", queue="workers", cb=members[1].keep)
    await far.subscribe("qg.job", queue="workers", cb=members[2].keep)
    await far.subscribe("qg.job", queue="auditors", cb=other_group.keep)
    await far.subscribe("qg.job", cb=plain.keep)
    await fence(near)
    await fence(far)
    wanted = sorted(b"%d" % i for i in range(300))
    for i in range(300):
        await near.publish("qg.job", b"%d" % i)
    await plain.wait_for(300)
    await settle(near, far)
    got = sorted(payload for member in members for payload in member.payloads())
    check_equal(got, wanted, "each message reaches one member of the group")
    check(all(member.messages for member in members), "every member of the group gets a share")
    check_equal(sorted(other_group.payloads()), wanted, "each message reaches the other group too")
    check_equal(sorted(plain.payloads()), wanted, "each message reaches the plain subscription")


async def auto_unsubscribe(near, far):
    first, second = Collector(), Collector()
    await (await far.subscribe("au.first", cb=first.keep)).unsubscribe(limit=5)
    later = await far.subscribe("au.second", cb=second.keep)
    await fence(far)
    for i in range(2):
        await near.publish("au.second", b"%d" % i)
    await second.wait_for(2)
    await later.unsubscribe(limit=3)
    await fence(far)
    for i in range(10):
        await near.publish("au.first", b"%d" % i)
        await near.publish("au.second", b"%d" % (i + 2))
    await settle(near, far)
    check_equal(first.payloads(), [b"%d" % i for i in range(5)], "five messages, then no more")
    check_equal(second.payloads(), [b"0", b"1", b"2"], "messages before the limit was set count")
    for subject in ("au.first", "au.second"):
        try:
            await near.request(subject, b"", timeout=WAIT_S)
            check(False, f"{subject} must have no responder once the limit is reached")
        except NoRespondersError:
            pass


async def drain_subscription(near, far):
    slow = Collector(delay_s=0.005)
    sub = await far.subscribe("ds.work", cb=slow.keep)
    await fence(far)
    for i in range(50):
        await near.publish("ds.work", b"%d" % i)
    await fence(near)
    await asyncio.wait_for(sub.drain(), WAIT_S)
    check_equal(slow.payloads(), [b"%d" % i for i in range(50)], "messages handled by the end of a drain")
    await fence(far)
    try:
        await near.request("ds.work", b"", timeout=WAIT_S)
        check(False, "a drained subscription must be gone")
    except NoRespondersError:
        pass


async def drain_connection(near, far):
    answers = Collector()
    closed = asyncio.Event()

    async def on_closed():
        closed.set()

    worker = await connect(closed_cb=on_closed)

    async def work(message):
        await asyncio.sleep(0.005)
        await worker.publish("dc.answer", message.data)

    await worker.subscribe("dc.work", cb=work)
    await fence(worker)
    await far.subscribe("dc.answer", cb=answers.keep)
    await fence(far)
    for i in range(50):
        await near.publish("dc.work", b"%d" % i)
    await fence(near)
    await asyncio.wait_for(worker.drain(), WAIT_S)
    await asyncio.wait_for(closed.wait(), WAIT_S)
    check(worker.is_closed, "a drained connection must be closed")
    await answers.wait_for(50)
    check_equal(answers.payloads(), [b"%d" % i for i in range(50)], "answers published during the drain")


async def large_payload(near, far):
    payload = bytes(i * 7 % 251 for i in range(PAYLOAD_MAX))

    async def echo(request):
        await request.respond(request.data)

    await far.subscribe("lp.echo", cb=echo)
    await fence(far)
    for _ in range(3):
        reply = await near.request("lp.echo", payload, timeout=WAIT_S)
        check(reply.data == payload, f"1 MiB must come back unchanged, got {len(reply.data)} bytes")


async def max_payload(near, _far):
    check_equal(near.max_payload, PAYLOAD_MAX, "max_payload of INFO")
    try:
        await near.publish("mp.over", bytes(PAYLOAD_MAX + 1))
        check(False, "a payload over the limit must be refused")
    except MaxPayloadError:
        pass
    await fence(near)


async def reconnect(near, _far):
    lost, back = asyncio.Event(), asyncio.Event()

    async def on_lost():
        lost.set()

    async def on_back():
        back.set()

    async def on_error(_error):
        pass  # the refused connections while the server is away

    client = await connect(disconnected_cb=on_lost, reconnected_cb=on_back, error_cb=on_error)
    plain, wild, member = Collector(), Collector(), Collector()
    await client.subscribe("rc.plain", cb=plain.keep)
    await client.subscribe("rc.*", cb=wild.keep)
    await client.subscribe("rc.plain", queue="workers", cb=member.keep)
    await fence(client)

    print("restart", flush=True)
    line = await asyncio.to_thread(sys.stdin.readline)
    check_equal(line, "restarted\n", "answer to restart")
    await asyncio.wait_for(lost.wait(), WAIT_S)
    await asyncio.wait_for(back.wait(), WAIT_S)
    await fence(client)
    async with asyncio.timeout(WAIT_S):
        while not near.is_connected:
            await asyncio.sleep(0.02)
    await near.publish("rc.plain", b"again")
    await settle(near, client)
    for name, collector in (("plain", plain), ("wildcard", wild), ("queue", member)):
        check_equal(collector.payloads(), [b"again"], f"{name} subscription after the restart")
    await client.close()


async def ignore_error(_error):
    """The two shared connections meet refused attempts while the server restarts."""


async def main():
    scenarios = (
        request_reply,
        no_responders,
        headers,
        wildcards,
        queue_groups,
        auto_unsubscribe,
        drain_subscription,
        drain_connection,
        large_payload,
        max_payload,
        reconnect,
    )
    near, far = await connect(error_cb=ignore_error), await connect(error_cb=ignore_error)
    for scenario in scenarios:
        try:
            async with asyncio.timeout(30):
                await scenario(near, far)
        except Exception as error:
            sys.exit(f"fail {scenario.__name__}: {type(error).__name__}: {error}")
        print(f"ok {scenario.__name__}", flush=True)
    await near.close()
    await far.close()


asyncio.run(pair.run(sys.argv[1]) if len(sys.argv) > 1 else main())
