"""HPACK decoding, RFC 7541 by section, and the literals we send."""

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from ratifyd.wire import huffman
from ratifyd.wire.hpack import TIMEOUT, Decoder, Entry, HpackError, encode_field


def fields(decoder: Decoder, block: bytes) -> list[tuple[bytes, bytes]]:
    entries, timeout = decoder.decode(block)
    return [(entry.name, timeout if entry is TIMEOUT else entry.value) for entry in entries]


@pytest.mark.parametrize(
    "blocks",
    [
        # RFC 7541 C.3, without Huffman coding, and C.4, with it
        (
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ),
        (
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ),
    ],
)
def test_appendix_c_requests(blocks: tuple[str, str, str]) -> None:
    decoder = Decoder()
    authority = (b":authority", b"www.example.com")
    common = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
    first, second, third = (bytes.fromhex(block) for block in blocks)
    assert fields(decoder, first) == [*common, authority]
    assert fields(decoder, second) == [*common, authority, (b"cache-control", b"no-cache")]
    assert fields(decoder, third) == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        authority,
        (b"custom-key", b"custom-value"),
    ]


def test_appendix_c2_representations() -> None:
    decoder = Decoder()
    assert fields(decoder, bytes.fromhex("040c2f73616d706c652f70617468")) == [(b":path", b"/sample/path")]
    assert fields(decoder, bytes.fromhex("100870617373776f726406736563726574")) == [(b"password", b"secret")]
    generation = decoder.generation
    assert generation == 0
    assert fields(decoder, bytes.fromhex("400a637573746f6d2d6b65790d637573746f6d2d686561646572")) == [
        (b"custom-key", b"custom-header")
    ]
    assert decoder.generation > generation


def test_static_table_is_the_rfcs() -> None:
    oracle = hpack.Decoder()
    decoder = Decoder()
    for index in range(1, 62):
        block = bytes((0x80 | index,))
        assert fields(decoder, block) == [(n.encode(), v.encode()) for n, v in oracle.decode(block)]


def test_equal_fields_are_one_entry() -> None:
    decoder = Decoder()
    literal = encode_field(b"x-name", b"value")
    assert decoder.decode(literal)[0][0] is decoder.decode(literal)[0][0]


@pytest.mark.parametrize(
    ("section", "block"),
    [
        ("6.1 index 0", "80"),
        ("2.3.3 index past the static table", "be"),
        ("2.3.3 index past the dynamic table in a literal", "7f0061"),
        ("5.1 integer without end", "ff"),
        ("5.1 integer too large", "ffffffffffffff7f"),
        ("5.1 integer of many zero bytes", "ff8080808080808000"),
        ("5.2 name cut short", "400a6162"),
        ("5.2 value cut short", "0405616263"),
        ("5.2 value missing", "04"),
        ("5.2 Huffman padding of zeros", "048118"),
        ("5.2 Huffman padding longer than 7 bits", "04821fff"),
        ("5.2 Huffman EOS", "0484ffffffff"),
        ("4.2 size update after a field", "8220"),
        ("6.3 size update above the limit", "3fe21f"),
    ],
)
def test_decoding_errors(section: str, block: str) -> None:
    with pytest.raises(HpackError):
        Decoder().decode(bytes.fromhex(block))


def test_size_update_evicts_and_the_limit_is_allowed() -> None:
    decoder = Decoder()
    decoder.decode(bytes.fromhex("410161"))
    assert fields(decoder, bytes.fromhex("be")) == [(b":authority", b"a")]
    assert fields(decoder, bytes.fromhex("203fe11f")) == []  # to 0 and back to 4,096 (§4.2)
    with pytest.raises(HpackError):
        decoder.decode(bytes.fromhex("be"))


def test_entry_larger_than_the_table_empties_it() -> None:
    """§4.4."""
    decoder = Decoder()
    decoder.decode(bytes.fromhex("410161"))
    decoder.decode(hpack.Encoder().encode([("x-large", "v" * 4_100)], huffman=False))
    with pytest.raises(HpackError):
        decoder.decode(bytes.fromhex("be"))


def test_literal_timeout_is_returned_apart_and_still_enters_the_table() -> None:
    encoder = hpack.Encoder()
    decoder = Decoder()
    entries, timeout = decoder.decode(encoder.encode([("grpc-timeout", "5S"), ("x", "y")]))
    assert entries[0] is TIMEOUT
    assert timeout == b"5S"
    entries, timeout = decoder.decode(encoder.encode([("grpc-timeout", "5S"), ("x", "y")]))
    assert (entries[0].name, entries[0].value, timeout) == (b"grpc-timeout", b"5S", None)


def test_entry_size_counts_as_the_rfc() -> None:
    """§4.1."""
    assert Entry(b"ab", b"cde").size == 37


def test_huffman_decodes_every_byte() -> None:
    encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    every = bytes(range(256))
    assert huffman.decode(encoder.encode(every)) == every
    assert huffman.decode(b"") == b""


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b":status", b"200"),
        (b":status", b"415"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"0"),
        (b"x-long", b"v" * 300),
        (b"x-longer", b"v" * 40_000),
        (b"x-empty", b""),
        (b"x-127", b"v" * 127),
    ],
)
def test_encoded_fields_leave_no_trace(name: bytes, value: bytes) -> None:
    oracle = hpack.Decoder()
    oracle.max_header_list_size = 100_000
    assert oracle.decode(encode_field(name, value), raw=True) == [(name, value)]
    assert not oracle.header_table.dynamic_entries
