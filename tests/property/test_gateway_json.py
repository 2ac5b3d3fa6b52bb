"""The gateway's JSON against protobuf's own, and any body at all against the gateway."""

import json
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratifyd.api.gateway import PATHS
from ratifyd.api.jsontext import ValueSplitter
from ratifyd.api.jsonwire import message_type
from ratifyd.proto.services import METHODS
from tests.support_http import Front
from tests.support_member import Member

_INTEGERS = {
    FieldDescriptor.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.TYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_UINT32: (0, (1 << 32) - 1),
}
_DEPTH = 4
_TYPES = sorted(
    {
        kind
        for method in {method.path: method for method in PATHS.values()}.values()
        for kind in (method.request, method.response)
    },
    key=lambda kind: kind.DESCRIPTOR.full_name,
)


def _value(draw: Any, field: Any, depth: int, message: Message) -> Any:
    if field.type in _INTEGERS:
        return draw(st.integers(*_INTEGERS[field.type]))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return draw(st.sampled_from([*field.enum_type.values_by_number, 77]))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return draw(st.booleans())
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw(st.binary(max_size=12))
    return draw(st.text(max_size=12))


def _fill(draw: Any, message: Message, depth: int) -> None:
    for field in message.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        nested = field.type == FieldDescriptor.TYPE_MESSAGE
        if nested and depth == 0:
            continue
        if field.is_repeated:
            for _ in range(draw(st.integers(0, 2))):
                if nested:
                    _fill(draw, getattr(message, field.name).add(), depth - 1)
                else:
                    getattr(message, field.name).append(_value(draw, field, depth, message))
        elif nested:
            getattr(message, field.name).SetInParent()
            _fill(draw, getattr(message, field.name), depth - 1)
        else:
            setattr(message, field.name, _value(draw, field, depth, message))


@st.composite
def messages(draw: Any) -> Message:
    """A message of any type that the gateway reads or writes."""
    message = draw(st.sampled_from(_TYPES))()
    _fill(draw, message, _DEPTH)
    return message


@given(messages(), st.booleans())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_as_protobuf_reads_and_writes_it(message: Message, proto_names: bool) -> None:
    kind = message_type(message.DESCRIPTOR)
    text = json_format.MessageToJson(message, preserving_proto_field_name=proto_names, ensure_ascii=False)
    assert type(message).FromString(kind.from_json(text.encode())) == message
    written = kind.to_json(message.SerializeToString())
    assert json_format.Parse(written, type(message)()) == message
    assert json.loads(written) == json.loads(json_format.MessageToJson(message, preserving_proto_field_name=True))
    slices = kind.to_json_in_slices(message.SerializeToString(), 8)
    while True:
        try:
            next(slices)
        except StopIteration as stop:
            assert json.loads(stop.value) == json.loads(written)
            break


# --- any body --------------------------------------------------------------------------------------------------------

_SCRAPS = st.sampled_from(
    (
        *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"true", b"-", b"1e", b".5", b"NaN", b" ", b"\n"),
        *(b"\xff", b"\\ud800", b'"key":"YQ=="', b'"lease":"9', b'"TTL":5', b'"ID":1', b'{"create_request":{}}'),
        b'"success":[{',
    )
)
_SHAPES = st.sampled_from(
    (
        b'{"key":"YQ==","range_end":"Yg==","limit":"3"}',
        b'{"create_request":{"key":"YQ==","start_revision":"1"}}',
        b'{"success":[{"request_range":{"key":"YQ=="}}],"compare":[{"key":"YQ==","target":"VALUE","value":"YQ=="}]}',
        b'{"ID":"5","TTL":"3"}',
        b'{"action":"GET","alarm":"NOSPACE"}',
        b'{"peerURLs":["http://a:1"],"isLearner":true}',
    )
)
_HARMLESS = sorted(path for path in PATHS if not path.endswith(("defragment", "snapshot", "hash", "hashkv")))


@st.composite
def bodies(draw: Any) -> bytes:
    """JSON, more or less."""
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return draw(st.binary(max_size=40))
    if kind == 1:
        return b"".join(draw(st.lists(_SCRAPS, max_size=12)))
    if kind == 2:
        values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
        tree = st.recursive(
            values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
        )
        return json.dumps(draw(tree)).encode()
    body = bytearray(draw(_SHAPES))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(body)))
        body[at : at + draw(st.integers(0, 3))] = draw(_SCRAPS | st.just(b""))
    return bytes(body)


_front: list[Front] = []


def _shared_front() -> Front:
    if not _front:
        _front.append(Front(Member().start()))
    return _front[0]


@given(st.sampled_from(_HARMLESS), bodies())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_body_gets_an_answer_or_an_error(path: str, body: bytes) -> None:
    """Never an exception; what is refused is refused in grpc-gateway's form."""
    front = _shared_front()
    got, incoming = front.open(path)
    middle = len(body) // 2
    for piece in (body[:middle], body[middle:]):
        incoming.receive(piece)
    incoming.body_ended()
    front.member.settle()
    incoming.lost()
    front.member.check()
    assert front.member.server.watch_streams == 0
    if got.status in (0, 200):
        return
    assert got.ended and got.headers["Content-Type"] == "application/json"
    answer = got.json
    if METHODS[PATHS[path].path].server_streaming and isinstance(answer["error"], dict):
        answer = answer["error"]
        assert answer["http_code"] == got.status
    assert answer["code"] and answer["message"]


_VALUES = ({}, {"a": "}"}, {'"': ["]", {"\\": '\\"'}]}, {"é": [[], {}, [[]]]})


@given(st.lists(st.sampled_from(_VALUES), max_size=5), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_values_in_a_row_are_cut_wherever_they_are_split(values: list[Any], step: int) -> None:
    texts = [json.dumps(value, ensure_ascii=False).encode() for value in values]
    stream = b"".join(texts)
    splitter = ValueSplitter()
    found = [value for at in range(0, len(stream), step) for value in splitter.feed(stream[at : at + step])]
    assert found == texts and splitter.rest() == b""
