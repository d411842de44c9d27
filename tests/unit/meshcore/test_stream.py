"""The control-plane stream: framing at any split, and the promise of the delta protocol."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from meshcore.errors import ProtocolError
from meshcore.stream.delta import ClientType, ServerType
from meshcore.stream.messages import (
    DeltaRequest,
    DeltaResponse,
    Node,
    Resource,
    SignRequest,
    SignResponse,
    Unframer,
    decode,
    encode,
    frame,
)

TYPE = "type.example/Thing"


@given(st.lists(st.binary(max_size=40), max_size=6), st.data())
def test_any_split_gives_the_same_messages(messages: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(frame(m) for m in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    unframer = Unframer(64)
    out: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        out += unframer.feed(stream[start:end])
    assert out == messages
    assert unframer.idle


def test_a_message_past_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(ProtocolError, match="larger than the limit"):
        list(Unframer(64).feed(struct.pack(">BI", 0, 65)))


def test_a_compressed_message_is_refused() -> None:
    with pytest.raises(ProtocolError, match="compressed"):
        list(Unframer().feed(struct.pack(">BI", 1, 1) + b"x"))


@pytest.mark.parametrize(
    "message",
    [
        DeltaRequest(TYPE, Node("ztunnel~1.1.1.1~z.ns~x", node="n1"), ("*",), (), {"a": "1"}, "n", "why"),
        DeltaRequest(TYPE),
        DeltaResponse(TYPE, "1", (Resource("a", "1", b"\x00\xff"),), ("b",), True),
        SignRequest("csr", "spiffe://td/ns/a/sa/b", 60),
        SignResponse(("leaf", "root")),
    ],
)
def test_messages_survive_encoding(message: object) -> None:
    assert decode(encode(message), type(message)) == message


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x90", b"\x91\x01", b"\x92\xa1x\xa1y\x00"])
def test_what_is_no_message_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data, DeltaRequest)


def res(name: str, version: int, body: bytes = b"body") -> Resource:
    return Resource(name, str(version), body)


def opened(store: dict[str, Resource], *, wildcard: bool = True, **kwargs: int) -> tuple[ClientType, ServerType]:
    client, server = ClientType(TYPE, wildcard=wildcard), ServerType(TYPE, **kwargs)
    server.request(client.first_request(Node("x")), store)
    return client, server


def pump(client: ClientType, server: ServerType, store: dict[str, Resource]) -> list[DeltaResponse]:
    out = []
    while (response := server.next(store)) is not None:
        out.append(response)
        server.request(client.answer(response, {}), store)
    return out


def test_an_empty_state_is_answered_so_that_the_client_is_synced() -> None:
    client, server = opened({})
    (response,) = pump(client, server, {})
    assert not response.resources
    assert client.synced


def test_one_response_is_in_flight_and_changes_meanwhile_are_merged() -> None:
    store = {"a": res("a", 1)}
    client, server = opened(store)
    first = server.next(store)
    assert first is not None
    for version in (2, 3):
        store["a"] = res("a", version)
        server.changed(["a"])
        assert server.next(store) is None
    server.request(client.answer(first, {}), store)
    second = server.next(store)
    assert second is not None
    assert [r.version for r in second.resources] == ["3"]


def test_a_stale_nonce_answers_nothing() -> None:
    _, server = opened({})
    assert server.next({}) is not None
    assert not server.request(DeltaRequest(TYPE, nonce="other"), {})
    assert (server.stale, server.waiting) == (1, True)


def test_a_nacked_resource_waits_for_a_change_and_comes_again_after_a_reconnect() -> None:
    store = {"a": res("a", 1), "b": res("b", 1)}
    client, server = opened(store)
    response = server.next(store)
    assert response is not None
    nack = client.answer(response, {"a": "bad port"})
    assert nack.error == "a: bad port"
    assert not client.synced
    server.request(nack, store)
    assert server.rejected == "a: bad port"
    assert server.next(store) is None
    again = ServerType(TYPE)
    again.request(client.first_request(Node("x")), store)
    response = again.next(store)
    assert response is not None
    assert [r.name for r in response.resources] == ["a"]


def test_resume_sends_nothing_that_is_unchanged_and_names_what_is_gone() -> None:
    store = {name: res(name, 1) for name in "abc"}
    client, server = opened(store)
    pump(client, server, store)
    store["b"] = res("b", 2)
    del store["c"]
    again = ServerType(TYPE)
    again.request(client.first_request(Node("x")), store)
    (response,) = pump(client, again, store)
    assert [r.name for r in response.resources] == ["b"]
    assert response.removed == ("c",)


def test_a_large_state_goes_out_in_parts_and_only_the_last_syncs() -> None:
    store = {str(i): res(str(i), 1, b"x" * 100) for i in range(10)}
    client, server = opened(store, part_bytes=250)
    synced = []
    while (response := server.next(store)) is not None:
        server.request(client.answer(response, {}), store)
        synced.append(client.synced)
    assert synced == [False, False, False, True]
    assert client.versions.keys() == store.keys()


def test_a_part_that_vanishes_still_ends_the_push() -> None:
    store = {str(i): res(str(i), 1, b"x" * 100) for i in range(2)}
    client, server = opened(store, part_bytes=1)
    response = server.next(store)
    assert response is not None
    assert response.more
    store.clear()
    server.changed(["0", "1"])
    server.request(client.answer(response, {}), store)
    pump(client, server, store)
    assert client.synced
    assert not client.versions


def test_by_name_unknown_names_are_echoed_as_removed() -> None:
    store = {"a": res("a", 1), "b": res("b", 1)}
    client, server = opened(store, wildcard=False)
    assert pump(client, server, store)[0].resources == ()
    request = client.change(["a", "zz"])
    assert request is not None
    server.request(request, store)
    (response,) = pump(client, server, store)
    assert ([r.name for r in response.resources], response.removed) == (["a"], ("zz",))
    store["zz"] = res("zz", 1)
    store["b"] = res("b", 2)
    server.changed(["zz", "b"])
    (response,) = pump(client, server, store)
    assert [r.name for r in response.resources] == ["zz"]
    request = client.change(unsubscribe=["a"])
    assert request is not None
    server.request(request, store)
    store["a"] = res("a", 2)
    server.changed(["a"])
    assert server.next(store) is None
    assert client.change(["zz"]) is None


def test_too_many_names_one_by_one_are_refused() -> None:
    server = ServerType(TYPE)
    with pytest.raises(ProtocolError, match="names subscribed"):
        server.request(DeltaRequest(TYPE, subscribe=tuple(map(str, range(50_000)))), {})


NAMES = st.sampled_from("abcdef")


class DeltaMachine(RuleBasedStateMachine):
    """Random changes, refusals, delays and reconnects: at rest the client holds what the server has."""

    @initialize(wildcard=st.booleans(), part=st.sampled_from([1, 10, 1000]))
    def start(self, wildcard: bool, part: int) -> None:
        self.store: dict[str, Resource] = {}
        self.version = 0
        self.part = part
        self.client = ClientType(TYPE, wildcard=wildcard)
        self.holds: dict[str, str] = {}
        self.bad: set[str] = set()
        self.connect()

    def connect(self) -> None:
        self.server = ServerType(TYPE, part_bytes=self.part)
        self.to_server = [self.client.first_request(Node("x"))]
        self.to_client: list[DeltaResponse] = []

    @rule(name=NAMES)
    def write(self, name: str) -> None:
        self.version += 1
        self.store[name] = res(name, self.version)
        self.server.changed([name])

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        self.store.pop(name, None)
        self.server.changed([name])

    @rule(name=NAMES)
    def refuse_next(self, name: str) -> None:
        self.bad.add(name)

    @rule(add=st.sets(NAMES, max_size=2), drop=st.sets(NAMES, max_size=2))
    def subscribe(self, add: set[str], drop: set[str]) -> None:
        drop -= add
        request = self.client.change(add, drop)
        if request is not None:
            self.to_server.append(request)
        if not self.client.wildcard:
            for name in drop:
                self.holds.pop(name, None)

    @rule()
    def server_turn(self) -> None:
        if self.to_server:
            self.server.request(self.to_server.pop(0), self.store)
        if (response := self.server.next(self.store)) is not None:
            self.to_client.append(response)

    @rule()
    def client_turn(self) -> None:
        if not self.to_client:
            return
        response = self.to_client.pop(0)
        resources, removed = self.client.wanted(response)
        refused = {r.name: "bad" for r in resources if r.name in self.bad}
        self.holds |= {r.name: r.version for r in resources if r.name not in refused}
        for name in removed:
            self.holds.pop(name, None)
        self.bad -= refused.keys()
        self.to_server.append(self.client.answer(response, refused))

    @rule()
    def reconnect(self) -> None:
        self.connect()

    @rule()
    def settle(self) -> None:
        """Refusals end, one reconnect repairs what was refused, and the ends agree."""
        self.bad.clear()
        self.connect()
        while self.to_server or self.to_client or self.server.behind:
            self.server_turn()
            self.client_turn()
        wanted = self.store.keys() if self.client.wildcard else self.store.keys() & self.client.names
        assert self.holds == {name: self.store[name].version for name in wanted}
        assert self.client.versions == self.holds
        assert self.client.synced

    @invariant()
    def at_most_one_in_flight(self) -> None:
        assert len(getattr(self, "to_client", ())) <= 1


DeltaMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestDelta = DeltaMachine.TestCase
