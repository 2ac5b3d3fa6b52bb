"""Messages as etcd 3.5 and 3.6 write them into their log: one line of text format, values and passwords left out.

A field is `name:value` and a blank, a message in between is `name:<...> `. Only for logs: slow.
"""

from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ratifyd.proto.raft_internal_pb2 import InternalRaftRequest
from ratifyd.proto.rpc_pb2 import Compare, PutRequest, RequestOp, TxnRequest

_ESCAPES = {byte: f"\\{byte:03o}" for byte in range(0x100) if not 0x20 <= byte < 0x7F}
_ESCAPES |= {ord("\n"): "\\n", ord("\r"): "\\r", ord("\t"): "\\t", ord('"'): '\\"', ord("\\"): "\\\\"}
MAX_SHOWN_BYTES = 4096
"""Of one key or name: somebody may send megabytes that every member then writes into its log."""


def compact(message: Message) -> str:
    """Every field that is set, in the order of its declaration."""
    parts = []
    for field, value in sorted(message.ListFields(), key=lambda item: item[0].index):
        many = value if field.is_repeated else (value,)
        parts += [_field(field, one) for one in many]
    return "".join(parts)


def put(request: PutRequest) -> str:
    """A Put with the size of its value in the place of the value."""
    sizes = ("value_size", len(request.value))
    flags = ((name, getattr(request, name)) for name in ("lease", "prev_kv", "ignore_value", "ignore_lease"))
    return _sized((("key", request.key), sizes, *flags))


def txn(request: TxnRequest) -> str:
    """A Txn, values in its compares and puts replaced by their sizes."""
    compares = " ".join(_compare(compare) for compare in request.compare)
    success = " ".join(_operation(operation) for operation in request.success)
    failure = " ".join(_operation(operation) for operation in request.failure)
    return f"compare:<{compares}> success:<{success}> failure:<{failure}>"


def entry(request: InternalRaftRequest) -> str:
    """A replicated request without values and passwords."""
    kind = next((field.name for field, _ in request.ListFields() if field.name in _REDACTED), None)
    if kind is None:
        return compact(request)
    return f"header:<{compact(request.header)}> {kind}:<{_REDACTED[kind](getattr(request, kind))}>"


_REDACTED = {
    "lease_grant": lambda request: f"ttl:{request.TTL}-second id:{request.ID & (1 << 64) - 1:016x}",
    "lease_revoke": lambda request: f"id:{request.ID & (1 << 64) - 1:016x}",
    "authenticate": lambda request: f"name:{request.name} simple_token:{request.simple_token}",
    "auth_user_add": lambda request: f"name:{request.name}",
    "auth_user_change_password": lambda request: f"name:{request.name}",
    "put": put,
    "txn": txn,
}


def _field(field: FieldDescriptor, value: Any) -> str:
    if field.message_type is not None:
        return f"{field.name}:<{compact(value)}> "
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return f"{field.name}:{value if known is None else known.name} "
    return f"{field.name}:{_scalar(value)} "


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        value = value.encode()
    return _quote(value) if isinstance(value, bytes) else str(value)


def _quote(value: bytes) -> str:
    """A byte string in double quotes, as the text format has it; of a long one the beginning."""
    shown = value[:MAX_SHOWN_BYTES].decode("latin-1").translate(_ESCAPES)
    return f'"{shown}"' if len(value) <= MAX_SHOWN_BYTES else f'"{shown}"... ({len(value)} bytes)'


def _sized(fields: Any) -> str:
    return "".join(f"{name}:{_scalar(value)} " for name, value in fields if value)


def _compare(compare: Compare) -> str:
    if compare.WhichOneof("target_union") != "value":
        return compact(compare)
    enums = (("result", Compare.CompareResult, compare.result), ("target", Compare.CompareTarget, compare.target))
    head = "".join(
        f"{name}:{kind.Name(number) if number in kind.values() else number} " for name, kind, number in enums if number
    )
    return head + _sized((("key", compare.key), ("value_size", len(compare.value)), ("range_end", compare.range_end)))


def _operation(operation: RequestOp) -> str:
    kind = operation.WhichOneof("request")
    if kind == "request_put":
        return f"request_put:<{put(operation.request_put)}>"
    if kind == "request_txn":
        return f"request_txn:<{txn(operation.request_txn)}>"
    return compact(operation)
