"""Damages a member's backend file while the member is down: one value is another from then on."""

from pathlib import Path

import lmdb

from ratifyd import schema
from ratifyd.proto.kv_pb2 import KeyValue


def change_value(data_dir: Path, key: bytes, value: bytes) -> None:
    """Give every revision of `key` another value, straight in the file."""
    path = str(data_dir / "member" / "snap" / "db")
    with lmdb.open(path, subdir=False, map_size=1 << 30, max_dbs=len(schema.BUCKETS) + 1) as env:
        bucket = env.open_db(schema.KEY)
        with env.begin(write=True) as txn, txn.cursor(bucket) as cursor:
            changed = 0
            for row, stored in list(cursor):
                kv = KeyValue.FromString(stored)
                if kv.key == key and len(row) == schema.REVISION_BYTES:
                    kv.value = value
                    txn.put(row, kv.SerializeToString(), db=bucket)
                    changed += 1
    assert changed, f"{key!r} is not in {path}"
