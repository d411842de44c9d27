"""What a server keeps for a subscriber."""

from __future__ import annotations

import sys

from meshcore.stream.delta import ClientType, ServerType
from meshcore.stream.messages import DeltaRequest, Node, Resource, decode, encode

TYPE = "type.googleapis.com/istio.workload.Address"


def many() -> dict[str, Resource]:
    return {name: Resource(name, f"version {name}", b"body") for name in (f"workload {n}" for n in range(3000))}


def pump(client: ClientType, server: ServerType, store: dict[str, Resource]) -> int:
    """Until nothing is left -> resources sent."""
    sent = 0
    while (response := server.next(store)) is not None:
        sent += len(response.resources)
        server.request(client.answer(response, {}), store)
    return sent


def test_a_client_that_comes_back_does_not_leave_its_copies_of_names_and_versions() -> None:
    store = many()
    client, server = ClientType(TYPE), ServerType(TYPE)
    server.request(client.first_request(Node("x")), store)
    assert pump(client, server, store) == len(store)
    again = ServerType(TYPE)
    arrived = decode(encode(client.first_request(Node("x"))), DeltaRequest)
    again.request(arrived, store)
    assert pump(client, again, store) == 0
    assert again.held.keys() == store.keys()
    ours = {id(text) for resource in store.values() for text in (resource.name, resource.version)}
    assert all(id(text) in ours for pair in again.held.items() for text in pair)


def test_what_was_waiting_to_be_sent_takes_no_room_afterwards() -> None:
    store = many()
    client, server = ClientType(TYPE), ServerType(TYPE)
    server.request(client.first_request(Node("x")), store)
    pump(client, server, store)
    assert sys.getsizeof(server._dirty) == sys.getsizeof(set())
