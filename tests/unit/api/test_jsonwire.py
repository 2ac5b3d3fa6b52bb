"""proto3 JSON to wire bytes and back."""

import pytest
from google.protobuf.message import DecodeError

from ratifyd.api.jsontext import BadJson
from ratifyd.api.jsonwire import message_type
from ratifyd.proto.rpc_pb2 import (
    AlarmRequest,
    Compare,
    PutRequest,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    TxnResponse,
    WatchRequest,
)
from ratifyd.proto.services import METHODS

RANGE = message_type(RangeRequest.DESCRIPTOR)


def _range(text: str) -> RangeRequest:
    return RangeRequest.FromString(RANGE.from_json(text.encode()))


def test_every_message_has_tables() -> None:
    for method in METHODS.values():
        for message in (method.request, method.response):
            assert message_type(message.DESCRIPTOR) is message_type(message.DESCRIPTOR)


def test_names_numbers_and_enums() -> None:
    wanted = RangeRequest(key=b"foo", range_end=b"\xfb\xff", limit=12, revision=-5, keys_only=True)
    wanted.sort_order, wanted.sort_target = RangeRequest.DESCEND, RangeRequest.MOD
    for text in (
        '{"key":"Zm9v","range_end":"+/8=","limit":12,"revision":-5,"keys_only":true,"sort_order":2,"sort_target":3}',
        '{"sortTarget":"MOD","sortOrder":"DESCEND","keysOnly":true,"revision":"-5","limit":"12","rangeEnd":"-_8",'
        '"key":"Zm\\n9v"}',
        '{"key":"Zm9v","rangeEnd":"+/8","limit":1.2e1,"revision":"-50e-1","keysOnly":true,"sortOrder":2.0,'
        '"sortTarget":"MOD","unknown":{"limit":[5]},"min_mod_revision":null,"serializable":false}',
    ):
        assert _range(text) == wanted
    assert _range('{"sort_order":"UNHEARD_OF"}') == RangeRequest()
    assert RANGE.from_json(b" \n") == RANGE.from_json(b"") == RANGE.from_json(b"{} and more") == b""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "proto: syntax error (line 1:1): unexpected token ["),
        (" null", "proto: syntax error (line 1:1): unexpected token null"),
        ('{"key":5}', "proto: (line 1:8): invalid value for bytes field key: 5"),
        ('{"key":"a"}', 'proto: (line 1:8): invalid value for bytes field key: "a"'),
        ('{"key":"YQ="}', 'proto: (line 1:8): invalid value for bytes field key: "YQ="'),
        ('{"key":"_+=="}', 'proto: (line 1:8): invalid value for bytes field key: "_+=="'),
        ('{"key":{"a":1}}', "proto: (line 1:8): invalid value for bytes field key: {"),
        ('{"range_end":\n [1]}', "proto: (line 2:2): invalid value for bytes field rangeEnd: ["),
        ('{"limit":true}', "proto: (line 1:10): invalid value for int64 field limit: true"),
        ('{"limit":"1 "}', 'proto: (line 1:10): invalid value for int64 field limit: "1 "'),
        ('{"limit":"1e"}', 'proto: (line 1:10): invalid value for int64 field limit: "1e"'),
        ('{"limit":1e999999999999}', "proto: (line 1:10): invalid value for int64 field limit: 1e999999999999"),
        (
            '{"limit":9223372036854775808}',
            "proto: (line 1:10): invalid value for int64 field limit: 9223372036854775808",
        ),
        ('{"keys_only":1}', "proto: (line 1:14): invalid value for bool field keysOnly: 1"),
        ('{"sort_order":true}', "proto: (line 1:15): invalid value for enum field sortOrder: true"),
        ('{"key":"","key":""}', 'proto: (line 1:11): duplicate field "key"'),
        ('{"rangeEnd":"","range_end":""}', 'proto: (line 1:16): duplicate field "range_end"'),
    ],
)
def test_what_does_not_fit(text: str, message: str) -> None:
    with pytest.raises(BadJson) as bad:
        RANGE.from_json(text.encode())
    assert str(bad.value) == message


def test_extremes() -> None:
    for number in (-(1 << 63), -1, 0, 127, 128, (1 << 63) - 1):
        assert _range(f'{{"limit":"{number}"}}').limit == number
    alarm = message_type(AlarmRequest.DESCRIPTOR)
    assert AlarmRequest.FromString(alarm.from_json(b'{"memberID":18446744073709551615}')).memberID == (1 << 64) - 1
    assert PutRequest.FromString(message_type(PutRequest.DESCRIPTOR).from_json(b'{"value":""}')) == PutRequest()


def test_oneofs_keep_their_zero() -> None:
    txn = message_type(TxnRequest.DESCRIPTOR)
    text = b'{"compare":[{"key":"YQ==","target":"VERSION","version":"0"}],"success":[{"request_put":{}}]}'
    request = TxnRequest.FromString(txn.from_json(text))
    assert request.compare[0].HasField("version") and request.compare[0].target == Compare.VERSION
    assert request.success[0].WhichOneof("request") == "request_put"
    assert b'"version":"0"' in txn.to_json(request.SerializeToString()).encode()
    watch = message_type(WatchRequest.DESCRIPTOR)
    created = WatchRequest.FromString(watch.from_json(b'{"create_request":{"filters":["NODELETE",0,"NO"]}}'))
    assert list(created.create_request.filters) == [1, 0]


def test_writing() -> None:
    response = RangeResponse(count=2, more=True)
    response.header.revision = -1
    response.kvs.add(key=b"\xff", value=b"", version=1)
    response.kvs.add()
    data = response.SerializeToString()
    kind = message_type(RangeResponse.DESCRIPTOR)
    text = '{"header":{"revision":"-1"},"kvs":[{"key":"/w==","version":"1"},{}],"more":true,"count":"2"}'
    assert kind.to_json(data) == text
    assert kind.to_json(data + b"\xf8\x07\x05") == text, "an unknown field"


def test_writing_in_slices() -> None:
    response = RangeResponse(count=50, more=True)
    response.header.revision = 7
    for number in range(50):
        response.kvs.add(key=b"%d" % number, value=b"x" * 100)
    kind = message_type(RangeResponse.DESCRIPTOR)
    data = response.SerializeToString()
    slices = kind.to_json_in_slices(data, 1000)
    count = 0
    while True:
        try:
            next(slices)
        except StopIteration as stop:
            assert stop.value == kind.to_json(data)
            break
        count += 1
    assert count >= 5


def test_depth() -> None:
    txn = message_type(TxnRequest.DESCRIPTOR)
    nested = ('{"success":[{"request_txn":' * 60 + "{}" + "}]}" * 60).encode()
    assert len(txn.from_json(nested)) > 100
    with pytest.raises(BadJson, match="depth"):
        txn.from_json(('{"success":[{"request_txn":' * 300 + "{}" + "}]}" * 300).encode())
    kind = message_type(TxnResponse.DESCRIPTOR)
    deep = b""
    for _ in range(2000):
        deep = b"\x22" + _size(len(deep)) + deep  # ResponseOp.response_txn
        deep = b"\x1a" + _size(len(deep)) + deep  # TxnResponse.responses
    with pytest.raises(DecodeError, match="deep"):
        kind.to_json(deep)
    with pytest.raises(DecodeError, match="deep"):
        next(kind.to_json_in_slices(deep, 1000))


def _size(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return out + bytes((value,))


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05ab", b"\xff" * 11, b"\x0b", b"\x08\x80"])
def test_broken_bytes(data: bytes) -> None:
    with pytest.raises(DecodeError):
        message_type(RangeResponse.DESCRIPTOR).to_json(data)


@pytest.mark.parametrize("text", ['{"a":[' + "0," * 200_000 + "0]}", '{"key":"YQ=="' + ',"a":1' * 200_000 + "}"])
def test_what_has_too_many_values_is_not_read(text: str) -> None:
    with pytest.raises(BadJson, match="more than 100000 values"):
        RANGE.from_json(text.encode())
