"""Read what a service says about itself with the types of nats-py's micro package, in each form of each verb.

    read_service.py NAME ID     with NATS_URL set; prints `ok`
"""

import asyncio
import json
import os
import sys

import nats
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats, ServiceVerb, control_subject

TIMEOUT_S = 10
READERS = {ServiceVerb.PING: ServicePing, ServiceVerb.INFO: ServiceInfo, ServiceVerb.STATS: ServiceStats}


def read(verb, data):
    answer = json.loads(data)
    if verb == ServiceVerb.STATS:
        for endpoint in answer["endpoints"]:
            endpoint.setdefault("data", None)  # optional in ADR-32, but not for nats-py's reader
    said = READERS[verb].from_dict(answer)
    assert answer["type"] == said.type, f"{answer} is not of type {said.type}"
    return said


async def main(name, service_id):
    bus = await nats.connect(os.environ["NATS_URL"])
    for verb in ServiceVerb:
        for named in ({}, {"name": name}, {"name": name, "id": service_id}):
            reply = await bus.request(control_subject(verb, **named), b"", timeout=TIMEOUT_S)
            said = read(verb, reply.data)
            assert (said.name, said.id, said.version) == (name, service_id, "1.0.0"), said
            assert said.metadata == {"language": "C"}, said
            if verb != ServiceVerb.PING:
                assert [endpoint.name for endpoint in said.endpoints] == ["hello", "divide"], said
    await bus.close()
    print("ok")


asyncio.run(main(*sys.argv[1:]))
