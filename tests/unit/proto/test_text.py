"""Requests as they appear in logs: what a real etcd 3.5.1 logged for the same ones."""

from ratifyd.proto import text
from ratifyd.proto.raft_internal_pb2 import InternalAuthenticateRequest, InternalRaftRequest, RequestHeader
from ratifyd.proto.rpc_pb2 import (
    AlarmRequest,
    AuthUserAddRequest,
    Compare,
    DeleteRangeRequest,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
)

HEADER = RequestHeader(ID=18305058818886113029)


def entry(**request: object) -> str:
    return text.entry(InternalRaftRequest(header=HEADER, **request))  # type: ignore[arg-type]


def test_a_put_shows_the_size_of_its_value() -> None:
    put = PutRequest(key=b"fo\"o\n\x80\x01'\\", value=b"secret", prev_kv=True)
    assert entry(put=put) == (
        r'header:<ID:18305058818886113029 > put:<key:"fo\"o\n\200\001' + r"'\\" + '" value_size:6 prev_kv:true >'
    )
    assert text.put(PutRequest(key=b"a", ignore_value=True)) == 'key:"a" ignore_value:true '


def test_a_range() -> None:
    request = RangeRequest(key=b"a", range_end=b"z", limit=5, sort_order=RangeRequest.ASCEND, serializable=True)
    assert text.compact(request) == 'key:"a" range_end:"z" limit:5 sort_order:ASCEND serializable:true '


def test_a_txn_shows_the_sizes_of_its_values() -> None:
    txn = TxnRequest(
        compare=[
            Compare(target=Compare.VALUE, key=b"k", value=b"sss"),
            Compare(target=Compare.MOD, result=Compare.GREATER, key=b"k", range_end=b"l", mod_revision=7),
        ],
        success=[RequestOp(request_put=PutRequest(key=b"k", value=b"v"))],
        failure=[
            RequestOp(request_range=RangeRequest(key=b"k")),
            RequestOp(request_delete_range=DeleteRangeRequest(key=b"k")),
            RequestOp(
                request_txn=TxnRequest(success=[RequestOp(request_put=PutRequest(key=b"kk", value=b"v"))]),
            ),
        ],
    )
    assert text.txn(txn) == (
        'compare:<target:VALUE key:"k" value_size:3  '
        'result:GREATER target:MOD key:"k" mod_revision:7 range_end:"l" > '
        'success:<request_put:<key:"k" value_size:1 >> '
        'failure:<request_range:<key:"k" >  request_delete_range:<key:"k" >  '
        'request_txn:<compare:<> success:<request_put:<key:"kk" value_size:1 >> failure:<>>>'
    )


def test_other_entries() -> None:
    head = "header:<ID:18305058818886113029 > "
    assert entry(lease_grant=LeaseGrantRequest(TTL=100, ID=1234)) == (
        head + "lease_grant:<ttl:100-second id:00000000000004d2>"
    )
    assert entry(lease_revoke=LeaseRevokeRequest(ID=-1)) == head + "lease_revoke:<id:ffffffffffffffff>"
    alarm = AlarmRequest(action=AlarmRequest.ACTIVATE, memberID=5, alarm=1)  # type: ignore[arg-type]
    assert entry(alarm=alarm) == head + "alarm:<action:ACTIVATE memberID:5 alarm:NOSPACE > "
    assert entry(delete_range=DeleteRangeRequest(key=b"a", range_end=b"b")) == (
        head + 'delete_range:<key:"a" range_end:"b" > '
    )


def test_passwords_are_left_out() -> None:
    user = AuthUserAddRequest(name="joe", password="pass", hashedPassword="hash")
    assert entry(auth_user_add=user) == "header:<ID:18305058818886113029 > auth_user_add:<name:joe>"
    login = InternalAuthenticateRequest(name="joe", password="pass", simple_token="t.5")
    assert "pass" not in entry(authenticate=login)


def test_unknown_enum_values_are_numbers() -> None:
    assert text.compact(RangeRequest(key=b"a", sort_order=9)) == 'key:"a" sort_order:9 '  # type: ignore[arg-type]


def test_of_a_long_key_the_beginning_is_shown() -> None:
    key = b"\x80" * (1 << 20)
    shown = entry(put=PutRequest(key=key, lease=5))
    assert len(shown) < 5 * text.MAX_SHOWN_BYTES
    assert f'"... ({len(key)} bytes) lease:5' in shown
    assert text.put(PutRequest(key=key[: text.MAX_SHOWN_BYTES])) == 'key:"' + r"\200" * text.MAX_SHOWN_BYTES + '" '
