"""A greeting service and its requester in one process: the scenario that started the project.

The service answers on `greet.*` with the second token of the subject. Three requests are answered; once
the service has drained its subscription, a fourth is told at once that nobody is there.
"""

import asyncio
import os

import nats
from nats.errors import NoRespondersError

REQUEST_TIMEOUT_S = 5


async def greet(request):
    _, name = request.subject.split(".")
    await request.respond(f"hello, {name}".encode())


async def main():
    servers = os.environ.get("NATS_URL", "nats://localhost:4222").split(",")
    connection = await nats.connect(servers=servers)
    service = await connection.subscribe("greet.*", cb=greet)

    for name in ("joe", "sue", "bob"):
        reply = await connection.request(f"greet.{name}", b"", timeout=REQUEST_TIMEOUT_S)
        print(reply.data)

    await service.drain()
    try:
        await connection.request("greet.joe", b"", timeout=REQUEST_TIMEOUT_S)
    except NoRespondersError:
        print("no responders")
    await connection.drain()


asyncio.run(main())
