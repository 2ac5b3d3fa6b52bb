"""The JSON gateway against etcd 3.5.1: the same requests to both, statuses and bodies compared.

ratifyd answers as 3.6 where 3.5 differs. Those requests stand in a table of their own, with both answers.
"""

import base64
import http.client
import json
from collections.abc import Iterator
from typing import Any

import pytest

from differential.pairs import start_pair
from harness.servers import EtcdServer

_VOLATILE = {"dbSize", "dbSizeInUse", "raftIndex", "raftAppliedIndex", "hash", "clientURLs", "raft_term", "raftTerm"}
_ONLY_NEWER = {"storageVersion", "dbSizeQuota", "downgradeInfo", "version"}


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[EtcdServer, EtcdServer]]:
    """etcd on the left, ratifyd on the right, of our own: lists would show what other tests have left."""
    servers = start_pair("etcd", "ratifyd")
    yield servers
    for each in servers:
        each.stop()


A, B, Z = _b64("a"), _b64("b"), _b64("z")

SAME: list[tuple[str, str | dict[str, Any]]] = [
    ("kv/put", {"key": A, "value": _b64("1")}),
    ("kv/put", {"key": B, "value": _b64("é <&>\u2028")}),
    ("kv/put", {"key": A, "value": _b64("2"), "prev_kv": True}),
    ("kv/put", {"key": A, "value": _b64("3"), "prevKv": True}),
    ("kv/put", {"key": A, "ignore_value": True, "value": A}),
    ("kv/put", {"key": Z, "ignore_value": True}),
    ("kv/put", {"key": A, "lease": "77"}),
    ("kv/put", {"value": A}),
    ("kv/put", ""),
    ("kv/range", {"key": A}),
    ("kv/range", {"key": A, "range_end": Z, "limit": "1", "sort_order": "DESCEND", "sort_target": "MOD"}),
    ("kv/range", {"key": A, "rangeEnd": Z, "limit": 1, "sortOrder": 1, "sortTarget": 0, "keysOnly": True}),
    ("kv/range", {"key": A, "range_end": Z, "count_only": True}),
    ("kv/range", {"key": A, "revision": "1000"}),
    ("kv/range", {"key": A, "serializable": True, "nothing": [{"like": "this"}, 1, None]}),
    ("kv/range", {"key": "AA==", "range_end": "AA=="}),
    ("kv/range", {"key": A, "limit": None, "range_end": None}),
    ("kv/range", f'  {{ "key" : "{A}" }} and more'),
    ("kv/range", f'{{"key":"{A}","limit":"1e0"}}'.replace("1e0", "1")),
    ("kv/deleterange", {"key": B, "prev_kv": True}),
    ("kv/deleterange", {"key": B}),
    (
        "kv/txn",
        {
            "compare": [{"key": A, "target": "VERSION", "result": "GREATER", "version": "0"}],
            "success": [
                {"request_put": {"key": A, "value": _b64("4")}},
                {"requestRange": {"key": A}},
                {"request_delete_range": {"key": Z}},
                {"request_txn": {"failure": [{"request_range": {"key": A}}], "compare": [{"key": Z, "version": 9}]}},
            ],
        },
    ),
    ("kv/txn", {"compare": [{"key": A, "target": 1, "result": 0, "create_revision": 0}], "failure": []}),
    ("kv/txn", {"success": [{}]}),
    ("kv/txn", {}),
    ("kv/compaction", {"revision": "3"}),
    ("kv/compaction", {"revision": "3"}),
    ("kv/compaction", {"revision": 99999}),
    ("kv/range", {"key": A, "revision": 2}),
    ("lease/grant", {"TTL": 60, "ID": "1001"}),
    ("lease/grant", {"TTL": "60", "ID": 1001}),
    ("lease/grant", {"TTL": "9000000001"}),
    ("kv/put", {"key": A, "value": A, "lease": 1001}),
    ("lease/timetolive", {"ID": 1001, "keys": True}),
    ("kv/lease/timetolive", {"ID": "4"}),
    ("lease/leases", {}),
    ("kv/lease/leases", {}),
    ("lease/keepalive", {"ID": "1001"}),
    ("lease/keepalive", '{"ID":"1001"}{"ID":5}\n{"ID":"1001"}'),
    ("lease/keepalive", '{"ID":"1001"} {broken'),
    ("lease/keepalive", ""),
    ("kv/lease/revoke", {"ID": "1001"}),
    ("lease/revoke", {"ID": "1001"}),
    ("cluster/member/list", {}),
    ("cluster/member/list", {"linearizable": True}),
    ("cluster/member/add", {"peerURLs": ["nonsense"]}),
    ("cluster/member/add", {"peer_urls": []}),
    ("cluster/member/remove", {"ID": "1"}),
    ("cluster/member/update", {"ID": "1", "peerURLs": ["http://127.0.0.1:1"]}),
    ("cluster/member/promote", {"ID": 1}),
    ("maintenance/alarm", {"action": "ACTIVATE", "memberID": "9", "alarm": "NOSPACE"}),
    ("maintenance/alarm", {"action": 0}),
    ("maintenance/alarm", {"action": "DEACTIVATE", "memberID": "9", "alarm": 1}),
    ("maintenance/status", {}),
    ("maintenance/defragment", {}),
    ("maintenance/hash", {}),
    ("maintenance/transfer-leadership", {"targetID": "0"}),
    ("maintenance/downgrade", {"action": "VALIDATE", "version": "x"}),
    ("kv/range", '{"key":'),
    ("kv/range", '{"key" 5}'),
    ("kv/range", "{key}"),
    ("kv/range", '{"key":"YQ==",}'),
    ("kv/range", '{"a":[1 2]}'),
    ("kv/range", '{"a":01}'),
    ("kv/range", '{"a":1.}'),
    ("kv/range", '{"a":2e}'),
    ("kv/range", '{"a":tru}'),
    ("kv/range", '{"a":NaN}'),
    ("kv/range", '{"a":-Infinity}'),
    ("kv/range", '{"a":"\\x"}'),
    ("kv/range", '{"a":"\\u12g4"}'),
    ("kv/range", '{"a":"\n"}'),
    ("kv/range", "'"),
    ("kv/range", "é"),
    ("kv/range", '{"a"'),
]
"""Path and body; both servers answer these alike."""

_BYTES_FIELD = "proto: (line 1:8): invalid value for bytes field key: "


def _error(code: int, message: str) -> dict[str, Any]:
    return {"error": message, "code": code, "message": message}


_NOT_A_BYTES = "json: cannot unmarshal number into Go value of type []uint8"
_NOT_AN_INT = "json: cannot unmarshal number 1.5 into Go value of type int64"
_DUPLICATE = "proto: (line 1:15): duplicate field "
_TWO_OF_ONE = '{"success":[{"request_range":{"key":"YQ=="},"request_put":{"key":"YQ=="}}]}'
_KEY_EMPTY = "etcdserver: key is not provided"
_BAD_NAME = "invalid character 'b' looking for beginning of object key string"
_NO_SUCH_ENUM = 'unknown value "\\"NO\\"" for enum etcdserverpb.RangeRequest.SortOrder'

NEWER: list[tuple[str, str, tuple[int, Any], tuple[int, Any]]] = [
    ("kv/range", '{"key":"!!!"}', (400, _error(3, "illegal base64 data at input byte 0")),
     (400, _error(3, _BYTES_FIELD + '"!!!"'))),
    ("kv/range", '{"key":5}', (400, _error(3, _NOT_A_BYTES)), (400, _error(3, _BYTES_FIELD + "5"))),
    ("kv/range", '{"key":"YQ==","limit":1.5}', (400, _error(3, _NOT_AN_INT)),
     (400, _error(3, "proto: (line 1:23): invalid value for int64 field limit: 1.5"))),
    ("kv/range", '{"key":"zz==","key":"yy=="}', (200, None), (400, _error(3, _DUPLICATE + '"key"'))),
    ("kv/range", '{"key":"zz==","sort_order":"NO"}', (400, _error(3, _NO_SUCH_ENUM)), (200, None)),
    ("kv/range", '{"key":"zz==","sort_order":99}', (200, None), (400, _error(3, "etcdserver: invalid sort option"))),
    ("kv/range", "null", (400, _error(3, _KEY_EMPTY)),
     (400, _error(3, "proto: syntax error (line 1:1): unexpected token null"))),
    ("kv/range", "[]",
     (400, _error(3, "json: cannot unmarshal array into Go value of type map[string]json.RawMessage")),
     (400, _error(3, "proto: syntax error (line 1:1): unexpected token ["))),
    ("kv/txn", _TWO_OF_ONE, (200, None),
     (400, _error(3, 'proto: (line 1:45): error parsing "request_put", oneof etcdserverpb.RequestOp.request '
                     "is already set"))),
    # 3.6 reads no further and says nothing, which is no use to anybody: ratifyd says what 3.6 writes to its log.
    ("watch", "{bad", (500, _error(2, _BAD_NAME)), (400, _error(3, "Failed to decode request: " + _BAD_NAME))),
    ("lease/keepalive", "{bad", (500, _error(2, _BAD_NAME)),
     (400, _error(3, "Failed to decode request: " + _BAD_NAME))),
    ("nothing", "{}", (404, "Not Found\n"), (404, _error(5, "Not Found"))),
    ("kv/range/", "{}", (404, "Not Found\n"), (404, _error(5, "Not Found"))),
    ("maintenance/hashkv", "{}", (404, "Not Found\n"), (200, None)),
]  # fmt: skip
"""Path, body, answer of 3.5.1, answer of 3.6; None for a body that does not matter."""


def _ask(server: EtcdServer, path: str, body: str | dict[str, Any], method: str = "POST") -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", server.client_port, timeout=10)
    try:
        text = body if isinstance(body, str) else json.dumps(body)
        connection.request(method, f"/v3/{path}", text.encode())
        response = connection.getresponse()
        data = response.read().decode()
    finally:
        connection.close()
    lines = data.splitlines()
    if response.getheader("content-type") != "application/json":
        return response.status, data
    return response.status, json.loads(data) if len(lines) <= 1 and data else [json.loads(line) for line in lines]


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _stable(item) for key, item in value.items() if key not in _VOLATILE | _ONLY_NEWER}
    return [_stable(item) for item in value] if isinstance(value, list) else value


def test_same_requests_same_answers(pair: tuple[EtcdServer, EtcdServer]) -> None:
    """In order, for they build upon each other."""
    for path, body in SAME:
        left, right = (_ask(server, path, body) for server in pair)
        if body == "" and path == "lease/keepalive":
            assert left[0] == right[0] == 200 and not left[1] and not right[1]
        else:
            assert (right[0], _stable(right[1])) == (left[0], _stable(left[1])), (path, body)


@pytest.mark.parametrize("case", NEWER, ids=lambda case: f"{case[0]} {case[1]}")
def test_where_newer_etcd_answers_otherwise(
    pair: tuple[EtcdServer, EtcdServer], case: tuple[str, str, tuple[int, Any], tuple[int, Any]]
) -> None:
    path, body, *expected = case
    for server, (status, answer) in zip(pair, expected, strict=True):
        found = _ask(server, path, body)
        assert found[0] == status
        assert answer is None or found[1] == answer


def test_other_methods(pair: tuple[EtcdServer, EtcdServer]) -> None:
    left, right = (_ask(server, "kv/range", "", "GET") for server in pair)
    assert left == (405, "Method Not Allowed\n")
    assert right == (501, _error(12, "Method Not Allowed"))
