"""Small helpers for tests: the status of a call that must fail, and short forms of common requests."""

from collections.abc import Callable
from typing import Any

import grpc

from harness.stubs import Client, status_of
from ratifyd.proto import kv_pb2, rpc_pb2

INVALID, OUT_OF_RANGE, NOT_FOUND = "INVALID_ARGUMENT", "OUT_OF_RANGE", "NOT_FOUND"

EMPTY_KEY = (INVALID, "etcdserver: key is not provided")
KEY_NOT_FOUND = (INVALID, "etcdserver: key not found")
VALUE_PROVIDED = (INVALID, "etcdserver: value is provided")
LEASE_PROVIDED = (INVALID, "etcdserver: lease is provided")
TOO_MANY_OPS = (INVALID, "etcdserver: too many operations in txn request")
DUPLICATE_KEY = (INVALID, "etcdserver: duplicate key given in txn request")
TOO_LARGE = (INVALID, "etcdserver: request is too large")
COMPACTED = (OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FUTURE_REVISION = (OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
LEASE_NOT_FOUND = (NOT_FOUND, "etcdserver: requested lease not found")
LEASE_EXISTS = ("FAILED_PRECONDITION", "etcdserver: lease already exists")


def failure(call: Callable[..., Any], *args: Any, **options: Any) -> tuple[str, str]:
    """(code, text) of a call that must fail."""
    try:
        answer = call(*args, **options)
    except grpc.RpcError as error:
        return status_of(error)
    raise AssertionError(f"the call succeeded: {answer}")


def put(client: Client, key: bytes, value: bytes = b"", **fields: Any) -> rpc_pb2.PutResponse:
    """Put a key."""
    answer: rpc_pb2.PutResponse = client.kv.Put(rpc_pb2.PutRequest(key=key, value=value, **fields))
    return answer


def get(client: Client, key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.RangeResponse:
    """Range over keys."""
    answer: rpc_pb2.RangeResponse = client.kv.Range(rpc_pb2.RangeRequest(key=key, range_end=range_end, **fields))
    return answer


def delete(client: Client, key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.DeleteRangeResponse:
    """Delete keys."""
    request = rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, **fields)
    answer: rpc_pb2.DeleteRangeResponse = client.kv.DeleteRange(request)
    return answer


def txn(client: Client, success: Any = (), failure: Any = (), compare: Any = ()) -> rpc_pb2.TxnResponse:
    """Run a transaction."""
    answer: rpc_pb2.TxnResponse = client.kv.Txn(txn_request(success, failure, compare))
    return answer


def txn_request(success: Any = (), failure: Any = (), compare: Any = ()) -> rpc_pb2.TxnRequest:
    return rpc_pb2.TxnRequest(success=success, failure=failure, compare=compare)


def op_put(key: bytes, value: bytes = b"", **fields: Any) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value, **fields))


def op_range(key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key, range_end=range_end, **fields))


def op_delete(key: bytes, range_end: bytes = b"", **fields: Any) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, **fields))


def op_txn(success: Any = (), failure: Any = (), compare: Any = ()) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_txn=txn_request(success, failure, compare))


def keys(answer: Any) -> list[bytes]:
    """The keys of a range answer, in its order."""
    return [kv.key for kv in answer.kvs]


def changes(events: list[kv_pb2.Event]) -> list[tuple[str, bytes, int]]:
    """Events as (type, key, revision)."""
    return [("DELETE" if event.type else "PUT", event.kv.key, event.kv.mod_revision) for event in events]
