"""Reading the rows of bucket `key`: the little that index, leases and hashes need of an encoded mvccpb.KeyValue."""

from ratifyd.proto.kv_pb2 import KeyValue


def row_key(data: bytes) -> bytes:
    """The key of a stored KeyValue; it is the first field in everything ratifyd and etcd write."""
    length = data[1]
    if length < 0x80 and data[0] == 0x0A:
        return data[2 : 2 + length]
    key: bytes = KeyValue.FromString(data).key
    return key


decode = KeyValue.FromString
"""The message of a stored KeyValue."""
