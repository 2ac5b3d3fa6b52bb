"""The envelope of .snap files, against generated protobuf."""

import google_crc32c
import pytest

from ratifyd.formats.snap import SnapCorrupt, decode_snap, encode_snap
from ratifyd.proto import snap_pb2


@pytest.mark.parametrize("size", [1, 127, 128, 70_000])
def test_bytes_are_protobufs(size: int) -> None:
    snapshot = bytes(range(1, 256)) * (size // 255 + 1)
    snapshot = snapshot[:size]
    content = encode_snap(snapshot)
    assert content == snap_pb2.snapshot(crc=google_crc32c.value(snapshot), data=snapshot).SerializeToString()
    assert decode_snap(content) == snapshot


def test_no_damage_passes() -> None:
    content = encode_snap(b"\x55" * 300)
    for position in range(len(content)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(content)
            damaged[position] ^= flip
            with pytest.raises(SnapCorrupt):
                decode_snap(bytes(damaged))
    for size in range(len(content)):
        with pytest.raises(SnapCorrupt):
            decode_snap(content[:size])
