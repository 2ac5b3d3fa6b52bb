"""Reading the rows of bucket `key`: the little that index, leases and hashes need of an encoded mvccpb.KeyValue."""

from ratifyd.proto.kv_pb2 import KeyValue


def row_key(data: bytes) -> bytes:
    """The key of a stored KeyValue; it is the first field in everything ratifyd and etcd write."""
    if len(data) > 1 and (length := data[1]) < 0x80 and data[0] == 0x0A:
        return data[2 : 2 + length]
    key: bytes = KeyValue.FromString(data).key
    return key


decode = KeyValue.FromString
"""The message of a stored KeyValue."""


def first_version_key(data: bytes, revision_bytes: int) -> bytes | None:
    """The key of a stored KeyValue that is its key's first version, has a value and no lease; None: see `decode`.

    A third of what decoding costs, for nearly all rows of a restart. `revision_bytes` is the length of the record's
    revision as a varint. Creation and modification are equally long only if the tag between them is where it is looked
    for, because all bytes of a varint but the last are above 0x7F. They are compared, since bits may have flipped.
    """
    try:
        key_bytes = data[1]
        end = 2 + key_bytes
        at = end + revision_bytes + 1
        if key_bytes >= 0x80 or data[end] != 0x10 or data[0] != 0x0A:
            return None
        created = data[end + 1 : at]
        end = at + revision_bytes + 1
        if data[at : end + 3] != b"\x18" + created + b"\x20\x01\x2a":
            return None
        at = end
        size = data[at + 3]
        at += 4
        if size >= 0x80:
            if data[at] >= 0x80:
                return None
            size += (data[at] << 7) - 0x80
            at += 1
    except IndexError:
        return None
    return data[2 : 2 + key_bytes] if at + size == len(data) else None
