"""Membership inside v2 store dumps; etcd's own reading of what we write is tested with the WAL's witness tests."""

import json

import pytest

from ratifyd.formats.v2 import V2Corrupt, V2Member, V2Store, decode_v2, encode_v2

STORE = V2Store(
    members=(
        V2Member(0x1234ABCD, ("http://a:2380", "http://b:2380"), "m1", ("http://a:2379",)),
        V2Member(0xFFFFFFFFFFFFFFFF, ("http://c:2380",), is_learner=True),
    ),
    removed=(0x99,),
    cluster_version="3.6.0",
)

# Shape as etcd 3.5.1 dumps it (history shortened): a member that never published, and a key of a v2 client.
DUMP = json.dumps(
    {
        "Root": {
            "Path": "/",
            "Value": "",
            "Children": {
                "0": {
                    "Path": "/0",
                    "Value": "",
                    "Children": {
                        "members": {
                            "Path": "/0/members",
                            "Value": "",
                            "Children": {
                                "8e9e05c52164694d": {
                                    "Path": "/0/members/8e9e05c52164694d",
                                    "Value": "",
                                    "Children": {
                                        "raftAttributes": {
                                            "Path": "/0/members/8e9e05c52164694d/raftAttributes",
                                            "Value": '{"peerURLs":["http://localhost:2380"]}',
                                            "Children": None,
                                        }
                                    },
                                }
                            },
                        },
                        "version": {"Path": "/0/version", "Value": "3.5.0", "Children": None},
                    },
                },
                "1": {"Path": "/1", "Value": "", "Children": {"k": {"Path": "/1/k", "Value": "v", "Children": None}}},
            },
        },
        "WatcherHub": {"EventHistory": {"Queue": {"Events": [], "Size": 0}, "StartIndex": 4, "LastIndex": 9}},
        "CurrentIndex": 9,
        "Stats": {},
        "CurrentVersion": 2,
    }
).encode()


def test_round_trip() -> None:
    assert decode_v2(encode_v2(STORE)) == STORE
    assert decode_v2(encode_v2(V2Store())) == V2Store()


def test_etcd_35_dump() -> None:
    assert decode_v2(DUMP) == V2Store(
        members=(V2Member(0x8E9E05C52164694D, ("http://localhost:2380",)),), cluster_version="3.5.0", has_user_keys=True
    )


def test_nodes_have_the_fields_etcd_unmarshals() -> None:
    content = json.loads(encode_v2(STORE))
    assert list(content) == ["Root", "WatcherHub", "CurrentIndex", "Stats", "CurrentVersion"]
    queue = content["WatcherHub"]["EventHistory"]["Queue"]
    assert len(queue["Events"]) == queue["Capacity"] == 1000
    node = content["Root"]["Children"]["0"]["Children"]["members"]["Children"]["1234abcd"]["Children"]["attributes"]
    assert node == {
        "Path": "/0/members/1234abcd/attributes",
        "CreatedIndex": 1,
        "ModifiedIndex": 1,
        "ExpireTime": "0001-01-01T00:00:00Z",
        "Value": '{"name":"m1","clientURLs":["http://a:2379"]}',
        "Children": None,
    }
    assert list(content["Root"]["Children"]) == ["0", "1"]


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"Root":3}', DUMP.replace(b"peerURLs", b"\\"), DUMP[:-1]])
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(V2Corrupt):
        decode_v2(data)
