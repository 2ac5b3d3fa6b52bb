"""bbolt files: what the writer writes the reader reads, and no bytes make the reader do anything but read or refuse."""

from collections.abc import Iterator, Sequence
from functools import cache
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ratifyd.formats.bbolt import BboltCorrupt, BoltFile, Pread, Row, read_pages
from ratifyd.formats.bboltwrite import BoltImage, OpenRows

Content = dict[bytes, dict[bytes, bytes]]

keys = st.one_of(
    st.binary(min_size=1, max_size=20),
    st.builds(lambda head, fill, size: head + fill * size, st.binary(max_size=3), st.just(b"k"), st.integers(1, 9000)),
)
values = st.one_of(
    st.binary(max_size=40),
    st.builds(lambda fill, size: fill * size, st.binary(min_size=1, max_size=1), st.integers(0, 30_000)),
)
contents = st.dictionaries(
    st.binary(min_size=1, max_size=30),
    st.one_of(
        st.dictionaries(keys, values, max_size=40),
        # Many rows, for trees of several levels.
        st.builds(
            lambda count, size, seed: {b"%06d" % Random(seed + n).randrange(10**6): b"v" * size for n in range(count)},
            st.integers(0, 3000),
            st.integers(0, 300),
            st.integers(0, 100),
        ),
    ),
    max_size=4,
)


def rows_of(rows: dict[bytes, bytes], slice_rows: int) -> OpenRows:
    ordered = sorted(rows.items())

    def slices() -> Iterator[Sequence[Row]]:
        for at in range(0, len(ordered), slice_rows):
            yield ordered[at : at + slice_rows]

    return slices


def write(content: Content, *, page_size: int = 4096, fill: float = 0.9, slice_rows: int = 50) -> bytes:
    image = BoltImage(
        {name: rows_of(rows, slice_rows) for name, rows in content.items()}, page_size=page_size, fill=fill
    )
    for _ in image.measure():
        pass
    data = b"".join(image.chunks())
    assert len(data) == image.size
    return data


def pread_of(data: bytes) -> Pread:
    return lambda size, offset: data[offset : offset + size]


def content_of(file: BoltFile) -> Content:
    return {name: dict(file.items(name)) for name in file.buckets()}


@settings(max_examples=60, deadline=None)
@given(contents, st.sampled_from([512, 1024, 4096, 16384, 65536]), st.floats(0.3, 1.0), st.integers(1, 400))
def test_what_is_written_is_read(content: Content, page_size: int, fill: float, slice_rows: int) -> None:
    data = write(content, page_size=page_size, fill=fill, slice_rows=slice_rows)
    file = read_pages(pread_of(data), len(data))
    file.check()
    assert file.buckets() == sorted(content)
    for name, rows in content.items():
        assert list(file.items(name)) == sorted(rows.items())
    assert [file.meta.page_size, file.meta.high_water * page_size] == [page_size, len(data)]


@cache
def small_file() -> tuple[Content, bytes]:
    """Inline and other buckets, two branch levels, overflow pages; small pages keep it small."""
    content: Content = {
        b"empty": {},
        b"inline": {b"a": b"1", b"b": b""},
        b"tree": {b"key%05d" % number: b"value" * (number % 7) for number in range(600)},
        b"large": {b"k" * 700: b"v" * 5000, b"l": b"w" * 1500},
    }
    return content, write(content, page_size=512)


def outcome(data: bytes) -> Content | None:
    """What a full read gives; None when the file is refused. Anything else raises."""
    try:
        file = read_pages(pread_of(data), len(data))
        found = content_of(file)
        file.check()
    except BboltCorrupt:
        return None
    return found


def test_the_whole_file_is_sound() -> None:
    content, data = small_file()
    assert outcome(data) == content


def test_every_truncation_is_refused() -> None:
    _, data = small_file()
    lengths = {*range(600), *range(0, len(data), 97), *range(len(data) - 520, len(data))}
    assert [length for length in sorted(lengths) if outcome(data[:length]) is not None] == []


def test_a_changed_byte_is_refused_or_changes_one_row_or_name() -> None:
    """No checksum covers keys and values, but structure that does not add up is noticed."""
    content, data = small_file()
    true = list(enumerate_rows(content))
    random = Random(4)
    refused = 0
    for _ in range(1500):
        broken = bytearray(data)
        at = random.randrange(len(data))
        broken[at] ^= 1 << random.randrange(8)
        found = outcome(bytes(broken))
        if found is None:
            refused += 1
            continue
        rows = list(enumerate_rows(found))
        assert len(rows) == len(true), at
        assert sum(row != other for row, other in zip(rows, true)) <= 1, at
    assert refused > 300


def enumerate_rows(content: Content) -> Iterator[tuple[int, bytes, bytes]]:
    """Rows in order, by the number of their bucket: a changed name is no changed row."""
    for number, name in enumerate(sorted(content)):
        for row in sorted(content[name].items()):
            yield number, *row


def test_changed_bytes_of_a_meta_leave_the_other_one() -> None:
    content, data = small_file()
    for at in (*range(16, 80), *range(512 + 16, 512 + 80)):
        broken = bytearray(data)
        broken[at] ^= 0x55
        assert outcome(bytes(broken)) == content


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_scrambled_page_headers_and_elements_never_get_through_unnoticed(data: st.DataObject) -> None:
    """Numbers where structure lies are replaced: an exception other than BboltCorrupt, or a loop, fails the test."""
    content, good = small_file()
    broken = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        page = data.draw(st.integers(2, len(good) // 512 - 1))
        at = page * 512 + data.draw(st.integers(0, 127))
        number = data.draw(st.one_of(st.integers(0, 300), st.integers(0, 2**32 - 1)))
        width = data.draw(st.sampled_from([1, 2, 4]))
        broken[at : at + width] = (number % 256**width).to_bytes(width, "little")
    found = outcome(bytes(broken))
    assert found is None or len(found) == len(content)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=3000))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert outcome(data) is None
