"""Our HPACK decoder against the hpack package's encoder: any fields, table sizes and evictions."""

import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from ratifyd.wire.hpack import TIMEOUT, Decoder, HpackError, encode_field

NAMES = st.sampled_from([b":path", b":authority", b"content-type", b"grpc-timeout", b"x-one", b"x-two", b"token"])
VALUES = st.one_of(st.binary(max_size=30), st.sampled_from([b"", b"/", b"POST", b"v" * 200, b"w" * 3_000, b"5000m"]))
FIELDS = st.lists(st.tuples(NAMES, VALUES, st.booleans()), max_size=12)
STEP = st.tuples(FIELDS, st.booleans(), st.one_of(st.none(), st.sampled_from([0, 64, 100, 300, 4_096])))


def decoded(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    entries, timeout = decoder.decode(block)
    found = [(entry.name, entry.value) for entry in entries]
    literal = [i for i, entry in enumerate(entries) if entry is TIMEOUT]
    if literal:
        assert timeout is not None
        found[literal[-1]] = (b"grpc-timeout", timeout)
    return found


@given(st.lists(STEP, max_size=25))
@settings(max_examples=60, deadline=None)
def test_decodes_what_hpack_encodes(steps: list[tuple[list[tuple[bytes, bytes, bool]], bool, int | None]]) -> None:
    encoder = hpack.Encoder()
    oracle = hpack.Decoder()
    oracle.max_header_list_size = 1_000_000
    decoder = Decoder()
    for fields, huffman, size in steps:
        if size is not None:
            encoder.header_table_size = size
        # at most one timeout of a block can be told apart from the literal one
        unique = [f for i, f in enumerate(fields) if f[0] != b"grpc-timeout" or all(g[0] != f[0] for g in fields[:i])]
        headers = [hpack.HeaderTuple(n, v) if index else hpack.NeverIndexedHeaderTuple(n, v) for n, v, index in unique]
        block = encoder.encode(headers, huffman=huffman)
        expected = [(bytes(n), bytes(v)) for n, v in oracle.decode(block, raw=True)]
        assert decoded(decoder, block) == expected == [(n, v) for n, v, _ in unique]


@given(st.lists(st.tuples(NAMES, st.binary(max_size=400)), max_size=8))
@settings(max_examples=60, deadline=None)
def test_hpack_decodes_what_we_encode(fields: list[tuple[bytes, bytes]]) -> None:
    oracle = hpack.Decoder()
    block = b"".join(encode_field(name, value) for name, value in fields)
    assert oracle.decode(block, raw=True) == fields
    assert not oracle.header_table.dynamic_entries


@given(st.lists(st.binary(max_size=60), max_size=5))
@settings(max_examples=200, deadline=None)
def test_agrees_with_hpack_on_any_bytes(blocks: list[bytes]) -> None:
    """What we accept hpack accepts, with the same fields. (It is the laxer of the two about size updates.)"""
    oracle = hpack.Decoder()
    oracle.max_header_list_size = 10**9
    decoder = Decoder()
    for block in blocks:
        try:
            expected = oracle.decode(block, raw=True)
        except hpack.HPACKError:
            expected = None
        try:
            entries, timeout = decoder.decode(block)
        except HpackError:
            return
        assert expected is not None
        if timeout is None:
            assert [(entry.name, entry.value) for entry in entries] == [(bytes(n), bytes(v)) for n, v in expected]
