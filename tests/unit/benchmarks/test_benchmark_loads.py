"""What the loads send, and how their figures are read."""

from pathlib import Path

import pytest

from benchmarks.bulk import PREFIX, requests, space_key
from benchmarks.cases import VALUE, all_cases, fits, patterns_of
from benchmarks.generator import all_loads
from benchmarks.keyspace import sizes_of
from benchmarks.surroundings import Others, file_system
from benchmarks.upkeep import QUIET, add_phase
from ratifyd.keys import prefix_end
from ratifyd.proto import rpc_pb2
from tests.unit.benchmarks.support_results import record


def test_loading_puts_every_key_once_in_order() -> None:
    puts = [op.request_put for message in requests(250) for op in rpc_pb2.TxnRequest.FromString(message).success]
    assert [put.key for put in puts] == [space_key(number) for number in range(250)]
    assert {put.value for put in puts} == {VALUE}
    assert all(PREFIX <= put.key < prefix_end(PREFIX) for put in puts)
    assert [len(rpc_pb2.TxnRequest.FromString(message).success) for message in requests(250)] == [100, 100, 50]


def test_titles_are_unique() -> None:
    titles = [case.title for case in all_cases()] + [title for title, _, _ in all_loads()]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ("", True),
        ("put", True),
        ("put/1*", True),
        ("*/100x10", True),
        ("range,put", True),
        ("pu", False),
        ("range", False),
    ],
)
def test_patterns_choose_cases(patterns: str, expected: bool) -> None:
    assert fits("put/100x10", patterns_of(patterns)) is expected


def test_sizes_are_sorted_and_positive() -> None:
    assert sizes_of("1_000,10") == [10, 1000]
    with pytest.raises(ValueError):
        sizes_of("0")


def test_a_phase_counts_what_was_due_in_it() -> None:
    made = record(QUIET)
    requests_due = [(at / 100, 1000.0 if 1 <= at / 100 <= 2 else 9.0) for at in range(400)]
    add_phase(made, 0, (1.0, 2.0), requests_due)
    assert made.metrics["p50_us"][0] == [1000.0]
    assert made.metrics["max_us"][0] == [1000.0]
    assert made.metrics["work_s"][0] == [1.0]


def test_short_work_is_judged_by_the_requests_that_met_it() -> None:
    made = record(QUIET)
    add_phase(made, 1, (1.0, 1.001), [(at / 100, 5000.0 if at == 100 else 9.0) for at in range(400)])
    assert made.metrics["max_us"][1] == [5000.0]
    assert made.metrics["p50_us"][1] == [9.0]


def test_surroundings_are_read(tmp_path: Path) -> None:
    assert file_system(tmp_path) != "unknown"
    assert Others().cores() >= 0.0
