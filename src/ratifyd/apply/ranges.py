"""Range as the state machine answers it: at once for a few keys, in slices for many, with equal answers.

Answers are response bytes without their header field. Sliced answers are generators: each step reads one slice, all at
the revision of the first; the result is the answer in parts, which nobody ever has to join.
"""

from collections.abc import Callable, Generator, Iterable
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Final

from ratifyd.keys import KeyRange
from ratifyd.mvcc.store import Store, WriteTxn
from ratifyd.proto import fast
from ratifyd.proto.kv_pb2 import KeyValue
from ratifyd.proto.rpc_pb2 import RangeRequest

Reader = Store | WriteTxn
SortKey = Callable[[KeyValue], bytes | int]
Items = tuple[list[bytes | int], list[bytes]]
"""What KeyValues are sorted by, and their encodings: two lists, because the garbage collector walks over pairs."""

LONG_KEYS = 1000
"""A range of more keys is read in slices."""
SLICE_KEYS = 500
"""Keys read in one slice."""
MAX_BEST = 10_000
"""Up to this limit a sorted range keeps no more than its limit while it reads."""

_SORT_KEYS: Final[dict[int, SortKey]] = {
    RangeRequest.KEY: lambda kv: kv.key,
    RangeRequest.VERSION: lambda kv: kv.version,
    RangeRequest.CREATE: lambda kv: kv.create_revision,
    RangeRequest.MOD: lambda kv: kv.mod_revision,
    RangeRequest.VALUE: lambda kv: kv.value,
}


def get_body(store: Store, key: bytes) -> bytes:
    """Answer a Range for a key as it is, changes of an open transaction included."""
    kv = store.get(key)
    return b"" if kv is None else fast.range_body((kv,), False, 1)


def range_response(header: bytes, reader: Reader, request: RangeRequest) -> bytes:
    """Answer a Range. Raises Compacted, FutureRev."""
    if request.count_only or not _is_plain(request):
        return header + _uncommon_range_body(reader, request)
    keys = KeyRange.parse(request.key, request.range_end)
    limit = request.limit
    result = reader.range(keys, revision=request.revision, limit=limit + 1 if limit > 0 else 0, fields=True)
    fields, more = result.kvs, False
    if 0 < limit < len(fields):
        fields, more = fields[:limit], True
    return fast.range_response_of(header, fields, more, result.count)


def range_body(reader: Reader, request: RangeRequest) -> bytes:
    """Answer a Range; the body after the header. Raises Compacted, FutureRev."""
    return range_response(b"", reader, request)


def _uncommon_range_body(reader: Reader, request: RangeRequest) -> bytes:
    keys = KeyRange.parse(request.key, request.range_end)
    if request.count_only:
        return fast.range_body((), False, reader.range(keys, revision=request.revision, count_only=True).count)
    if _is_edge(request):
        kvs, candidates, count = reader.created(
            keys, newest=request.sort_order == RangeRequest.DESCEND, up_to=request.max_create_revision
        )
        return fast.range_body(kvs, candidates > 1, count)
    return _decoded_range_body(reader, request, keys)


def _decoded_range_body(reader: Reader, request: RangeRequest, keys: KeyRange) -> bytes:
    limit = request.limit
    result = reader.range(keys, revision=request.revision, limit=_fetched(request))
    items = _items(result.kvs, request)
    kvs = items[1] if _in_key_order(request) else _sorted(items, request)[1]
    more = 0 < limit < len(kvs)
    if more:
        del kvs[limit:]
    return fast.range_body(kvs, more, result.count)


def _is_plain(request: RangeRequest) -> bool:
    """Whether stored bytes can be answered as they are: key order, whole values, no filters."""
    return not (request.sort_order or request.sort_target or request.keys_only or _is_filtered(request))


def _is_edge(request: RangeRequest) -> bool:
    """Whether the first or the last key by creation is asked for, as locks and elections do: the index knows it."""
    return (
        request.sort_target == RangeRequest.CREATE
        and request.sort_order != RangeRequest.NONE
        and request.limit == 1
        and request.max_create_revision >= 0
        and not (
            request.revision
            or request.keys_only
            or request.min_mod_revision
            or request.max_mod_revision
            or request.min_create_revision
        )
    )


def _is_filtered(request: RangeRequest) -> bool:
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def _in_key_order(request: RangeRequest) -> bool:
    """Whether the answer is in the order in which keys are read."""
    return not request.sort_target and request.sort_order != RangeRequest.DESCEND


def _fetched(request: RangeRequest) -> int:
    """Keys that have to be read, 0 for all.

    With the default order the limit is applied before sorting by another target, as etcd does (semantics 2.11).
    """
    limit = request.limit
    if limit <= 0 or _is_filtered(request) or (request.sort_order and not _in_key_order(request)):
        return 0
    return limit + 1


def _items(values: Iterable[bytes], request: RangeRequest) -> Items:
    """What is answered of these KeyValues, and what to sort it by."""
    sort_key, keys_only = _SORT_KEYS[request.sort_target], request.keys_only
    kvs = [KeyValue.FromString(data) for data in values]
    if _is_filtered(request):
        kvs = _filter(kvs, request)
    by = [sort_key(kv) for kv in kvs]
    if keys_only:
        for kv in kvs:
            kv.ClearField("value")
    return by, [kv.SerializeToString() for kv in kvs]


def without_values(values: Iterable[bytes]) -> list[bytes]:
    """KeyValues as a Range for keys only shows them."""
    kvs = [KeyValue.FromString(data) for data in values]
    for kv in kvs:
        kv.ClearField("value")
    return [kv.SerializeToString() for kv in kvs]


def _sorted(items: Items, request: RangeRequest) -> Items:
    by, kvs = items
    order = sorted(range(len(by)), key=by.__getitem__, reverse=request.sort_order == RangeRequest.DESCEND)
    return [by[at] for at in order], [kvs[at] for at in order]


def _filter(kvs: list[KeyValue], request: RangeRequest) -> list[KeyValue]:
    max_mod, min_mod = request.max_mod_revision, request.min_mod_revision
    max_create, min_create = request.max_create_revision, request.min_create_revision
    return [
        kv
        for kv in kvs
        if (not max_mod or kv.mod_revision <= max_mod)
        and (not min_mod or kv.mod_revision >= min_mod)
        and (not max_create or kv.create_revision <= max_create)
        and (not min_create or kv.create_revision >= min_create)
    ]


# --- in slices


def is_long(store: Store, request: RangeRequest) -> bool:
    """Whether a Range is too much for one go."""
    if not request.range_end:
        return False
    revision = request.revision
    if not 0 < revision < store.revision and (request.count_only or 0 < _fetched(request) <= LONG_KEYS):
        return False
    return store.exceeds(KeyRange.parse(request.key, request.range_end), revision, LONG_KEYS)


def range_steps(store: Store, request: RangeRequest) -> Generator[None, None, list[bytes]]:
    """Answer a Range in slices; the result is the body's parts. Raises Compacted, FutureRev at the first step."""
    plain = _is_plain(request)
    reading = store.range_slices(
        KeyRange.parse(request.key, request.range_end),
        revision=request.revision if request.revision > 0 else store.revision,
        limit=_fetched(request),
        rows=SLICE_KEYS,
        count_only=request.count_only,
    )
    if _in_key_order(request):
        return (yield from _in_order(reading, request, plain=plain))
    return (yield from _in_other_order(reading, request))


def _in_order(
    reading: Generator[list[bytes], None, int], request: RangeRequest, *, plain: bool
) -> Generator[None, None, list[bytes]]:
    limit = max(request.limit, 0)
    parts: list[bytes] = []
    taken, more = 0, False
    while True:
        try:
            kvs = next(reading)
        except StopIteration as stop:
            return [*parts, fast.range_body((), more, stop.value)]
        if not plain:
            kvs = _items(kvs, request)[1]
        if 0 < limit < taken + len(kvs):
            kvs, more = kvs[: limit - taken], True
        taken += len(kvs)
        if kvs:
            parts.append(fast.range_body(kvs, False, 0))
        yield


def _in_other_order(
    reading: Generator[list[bytes], None, int], request: RangeRequest
) -> Generator[None, None, list[bytes]]:
    """Sort slice by slice, then merge slice by slice."""
    limit = max(request.limit, 0)
    runs: list[Items] = []
    while True:
        try:
            by, kvs = _items(next(reading), request)
        except StopIteration as stop:
            count = stop.value
            break
        if 0 < limit <= MAX_BEST and runs:
            best = runs.pop()
            by, kvs = best[0] + by, best[1] + kvs  # the earlier ones first, so that equal ones stay in key order
        by, kvs = _sorted((by, kvs), request)
        runs.append((by[: limit + 1], kvs[: limit + 1]) if 0 < limit <= MAX_BEST else (by, kvs))
        yield
    found = sum(len(kvs) for _, kvs in runs)
    left = limit or found
    more = left < found
    reverse = request.sort_order == RangeRequest.DESCEND
    merged = merge(*(zip(by, kvs) for by, kvs in runs), key=itemgetter(0), reverse=reverse)
    parts: list[bytes] = []
    while kvs := [data for _, data in islice(merged, min(left, SLICE_KEYS))]:
        left -= len(kvs)
        parts.append(fast.range_body(kvs, False, 0))
        yield
    return [*parts, fast.range_body((), more, count)]
