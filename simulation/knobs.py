"""Limits of the server made tiny for a run, so that what is rare in life happens all the time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ratifyd import lease
from ratifyd.api import kv, watch
from ratifyd.apply import ranges
from ratifyd.config import Config
from ratifyd.embed import received
from ratifyd.mvcc import watch as hub
from ratifyd.mvcc.watch import WatchHub
from ratifyd.server import compaction, node, sending
from simulation.options import Options

REVISION_PERIOD_S = 0.5
"""How often automatic compaction looks at the number of revisions; in life five minutes."""

IMAGE_WRITE_BYTES = 20_000
"""Bytes of an image that are written at once; in life a mebibyte."""


FRAGMENT_BYTES = 150
"""What a response of a watcher that takes fragments holds; in life two mebibytes."""


@contextmanager
def turned(options: Options) -> Iterator[None]:
    """Have the limits of a run in force meanwhile."""
    knobs: list[tuple[Any, str, Any]] = [
        (node, "TURN_ENTRIES", options.turn_entries),
        (sending, "RELEASE_S", options.release_s),
        (received, "WRITE_BYTES", IMAGE_WRITE_BYTES),
        (WatchHub.catch_up, "__defaults__", (options.catch_up_watchers, options.catch_up_revisions)),
    ]
    if options.lease_checkpoint_s:
        knobs.append((lease, "CHECKPOINT_INTERVAL_S", options.lease_checkpoint_s))
    if options.auto_compaction_revisions:
        knobs.append((compaction, "REVISION_PERIOD_S", REVISION_PERIOD_S))
    if options.watch_queue_bytes:
        knobs.append((watch, "MAX_QUEUED_BYTES", options.watch_queue_bytes))
    if options.wide:
        knobs += [
            (ranges, "LONG_KEYS", 3),
            (ranges, "SLICE_KEYS", 2),
            (kv, "SLICE_KEYS", 2),
            (kv, "STREAM_FIRST_KEYS", 2),
            (kv, "MAX_QUEUED_BYTES", 300),
            (hub, "MAX_EVENTS_PER_PASS", 3),
            (hub, "_CHANGES_AT_ONCE", 2),
            (watch, "GRPC_OVERHEAD_BYTES", FRAGMENT_BYTES - Config().max_request_bytes),
        ]
    before = [getattr(owner, name) for owner, name, _ in knobs]
    for owner, name, value in knobs:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(knobs, before):
            setattr(owner, name, value)
