"""The fixed parts of bbolt files, and damage that only a look at the whole file shows."""

from struct import pack, pack_into

import pytest

from ratifyd.formats.bbolt import BboltCorrupt, BoltFile, read_pages
from ratifyd.formats.bboltpage import NO_FREELIST, Meta, decode_meta, encode_meta, fnv1a
from ratifyd.formats.bboltwrite import BoltImage, OpenRows

PAGE = 512


def rows(*items: tuple[bytes, bytes]) -> OpenRows:
    return lambda: [list(items)]


def many(count: int) -> OpenRows:
    return rows(*[(b"%05d" % number, b"value") for number in range(count)])


def written(**buckets: OpenRows) -> bytearray:
    image = BoltImage({name.encode(): rows for name, rows in buckets.items()}, page_size=PAGE)
    for _ in image.measure():
        pass
    return bytearray(b"".join(image.chunks()))


def opened(data: bytes | bytearray) -> BoltFile:
    return read_pages(lambda size, offset: bytes(data[offset : offset + size]), len(data))


def refused(data: bytes | bytearray, reason: str) -> None:
    with pytest.raises(BboltCorrupt, match=reason):
        opened(data).check()


def set_meta(data: bytearray, **changes: int) -> None:
    """Change both metas, with right checksums."""
    for at in (16, PAGE + 16):
        meta = decode_meta(bytes(data[at : at + 64]))
        assert meta is not None
        data[at : at + 64] = encode_meta(meta._replace(**changes))


def kind(data: bytearray, page: int) -> int:
    return data[page * PAGE + 8]


def first_page(data: bytearray, flags: int) -> int:
    return next(page for page in range(2, len(data) // PAGE) if kind(data, page) == flags)


def test_metas() -> None:
    assert fnv1a(b"") == 0xCBF29CE484222325
    assert fnv1a(b"foobar") == 0x85944171F73967E8
    # Meta 0 of a database bbolt 1.3.6 has just created.
    new = pack("<IIIIQQQQQ", 0xED0CDAED, 2, 4096, 0, 3, 0, 2, 4, 0)
    assert encode_meta(Meta(4096, 3, 0, 2, 4, 0)) == new + pack("<Q", fnv1a(new))
    assert decode_meta(encode_meta(Meta(4096, 3, 0, NO_FREELIST, 4, 9))) == Meta(4096, 3, 0, NO_FREELIST, 4, 9)
    assert decode_meta(new) is None


def test_small_buckets_are_inline_and_others_are_not() -> None:
    # A quarter of the page is the header and what follows; one byte more needs a page.
    fits = PAGE // 4 - 16 - 16 - 1
    data = written(inline=rows((b"k", b"v" * fits)), own=rows((b"k", b"v" * (fits + 1))))
    root = opened(data).meta.root
    assert len(data) // PAGE == 5
    assert root == 4
    assert opened(data).meta.high_water == 5
    assert list(opened(data).items(b"inline")) == [(b"k", b"v" * fits)]
    assert list(opened(data).items(b"own")) == [(b"k", b"v" * (fits + 1))]


def test_no_buckets_at_all() -> None:
    assert opened(written()).buckets() == []
    opened(written()).check()


def test_the_meta_of_the_later_transaction_counts() -> None:
    data = written(b=rows((b"k", b"v")))
    old, new = (decode_meta(bytes(data[at : at + 64])) for at in (PAGE + 16, 16))
    assert old is not None
    assert new is not None
    assert (new.txid, old.txid) == (2, 1)
    data[16:80] = encode_meta(old._replace(root=99))
    data[PAGE + 16 : PAGE + 80] = encode_meta(new)
    assert opened(data).meta == new
    data[16:80] = bytes(64)
    assert list(opened(data).items(b"b")) == [(b"k", b"v")]
    data[PAGE + 16 : PAGE + 80] = bytes(64)
    refused(data, "no valid meta")


def test_an_unknown_bucket_is_empty() -> None:
    assert list(opened(written(b=many(3))).items(b"other")) == []


def test_a_file_may_be_longer_than_its_pages() -> None:
    data = written(b=many(300)) + bytes(5000)
    opened(data).check()


def test_without_a_freelist_what_is_not_reached_is_free() -> None:
    data = written(b=many(300))
    set_meta(data, freelist=NO_FREELIST)
    opened(data).check()


def test_free_pages_are_listed_once_and_are_not_in_use() -> None:
    data = written(b=many(300))
    pages = len(data) // PAGE
    data += bytes(2 * PAGE)
    set_meta(data, high_water=pages + 2)
    refused(data, f"page {pages} is neither reachable nor free")
    pack_into("<QHHIQQ", data, 2 * PAGE, 2, 0x10, 2, 0, pages, pages + 1)
    opened(data).check()
    pack_into("<QHHIQQQ", data, 2 * PAGE, 2, 0x10, 0xFFFF, 0, 2, pages, pages + 1)
    opened(data).check()
    pack_into("<QHHIQQQ", data, 2 * PAGE, 2, 0x10, 0xFFFF, 0, 2, pages, pages)
    refused(data, f"page {pages} cannot be free")
    pack_into("<QHHIQQQ", data, 2 * PAGE, 2, 0x10, 0xFFFF, 0, 9999, pages, pages)
    refused(data, "too short for 9999 pages")
    pack_into("<QHHIQ", data, 2 * PAGE, 2, 0x10, 1, 0, 3)
    refused(data, "page 3 is used twice")
    pack_into("<QHHIQ", data, 2 * PAGE, 2, 0x02, 1, 0, 3)
    refused(data, "freelist page 2 has flags 0x2")


def test_pages_shared_or_looped_are_refused() -> None:
    data = written(b=many(300))
    branch = first_page(data, 0x01) * PAGE
    child = data[branch + 24 : branch + 32]
    shared = bytearray(data)
    shared[branch + 16 + 16 + 8 : branch + 16 + 16 + 16] = child
    refused(shared, f"page {child[0]}")
    looped = bytearray(data)
    looped[branch + 24 : branch + 32] = pack("<Q", branch // PAGE)
    refused(looped, "is used twice")
    with pytest.raises(BboltCorrupt):
        list(opened(looped).items(b"b"))
    outside = bytearray(data)
    outside[branch + 24 : branch + 32] = pack("<Q", 1 << 40)
    refused(outside, "outside the file")
    to_freelist = bytearray(data)
    to_freelist[branch + 24 : branch + 32] = pack("<Q", 2)
    with pytest.raises(BboltCorrupt, match="page 2 of a tree has flags 0x10"):
        list(opened(to_freelist).items(b"b"))


def test_keys_must_be_in_order_within_and_between_pages() -> None:
    data = written(b=many(300))
    leaf = first_page(data, 0x02) * PAGE
    key = data.index(b"00001", leaf)
    for wrong in (b"00000", b"00009"):
        swapped = bytearray(data)
        swapped[key : key + 5] = wrong
        refused(swapped, "not in order")
    last = data.rindex(b"value", leaf, leaf + PAGE) - 5
    data[last : last + 5] = b"99999"
    refused(data, "holds keys its parent gives to another page")


def test_overflow_must_lie_in_the_file() -> None:
    data = written(b=rows((b"k", b"v" * 3000)))
    leaf = first_page(data, 0x02)
    assert data[leaf * PAGE + 12] == 5
    pack_into("<I", data, leaf * PAGE + 12, 500)
    refused(data, "overflows the file")
    pack_into("<I", data, leaf * PAGE + 12, 4)
    refused(data, "too small for its rows")


def test_nested_buckets_are_refused() -> None:
    data = written(b=many(300))
    leaf = first_page(data, 0x02) * PAGE
    data[leaf + 16] = 1
    refused(data, "mixes rows and buckets")


@pytest.mark.parametrize("fill", [0.5, 0.9, 1.0])
def test_pages_are_filled_as_asked(fill: float) -> None:
    image = BoltImage({b"b": rows(*[(b"%08d" % number, b"v" * 76) for number in range(4000)])}, fill=fill)
    for _ in image.measure():
        pass
    # 100 bytes a row with its element: 40 fill a page of 4096.
    leaves = -(-4000 // int((4096 * fill - 16) // 100))
    assert leaves < image.size // 4096 < leaves * 1.03 + 6


def test_rows_out_of_order_are_a_mistake_of_the_caller() -> None:
    image = BoltImage({b"b": lambda: [[(b"%05d" % (number % 2000), b"v" * 50)] for number in range(4000)]})
    with pytest.raises(ValueError, match="not sorted"):
        list(image.measure())


def test_rows_that_change_between_the_walks_are_noticed() -> None:
    walks = [[(b"%05d" % number, b"v" * 50) for number in range(count)] for count in (3000, 2000)]
    image = BoltImage({b"b": lambda: [walks.pop(0)]})
    list(image.measure())
    with pytest.raises(ValueError, match="changed between"):
        list(image.chunks())
