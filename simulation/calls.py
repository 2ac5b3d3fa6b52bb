"""The calls that clients make: their paths, and what is answered."""

from typing import Any

from ratifyd.proto import lock_pb2
from ratifyd.proto import rpc_pb2 as pb

KV = "/etcdserverpb.KV/"
LEASE = "/etcdserverpb.Lease/"
MAINTENANCE = "/etcdserverpb.Maintenance/"
CLUSTER = "/etcdserverpb.Cluster/"
AUTH = "/etcdserverpb.Auth/"
RESPONSES: dict[str, Any] = {
    "put": pb.PutResponse,
    "range": pb.RangeResponse,
    "delete_range": pb.DeleteRangeResponse,
    "txn": pb.TxnResponse,
    "compaction": pb.CompactionResponse,
    "lease_grant": pb.LeaseGrantResponse,
    "lease_revoke": pb.LeaseRevokeResponse,
    "authenticate": pb.AuthenticateResponse,
    "auth_enable": pb.AuthEnableResponse,
    "auth_disable": pb.AuthDisableResponse,
    "auth_user_add": pb.AuthUserAddResponse,
    "auth_user_delete": pb.AuthUserDeleteResponse,
    "auth_user_change_password": pb.AuthUserChangePasswordResponse,
    "auth_user_grant_role": pb.AuthUserGrantRoleResponse,
    "auth_user_revoke_role": pb.AuthUserRevokeRoleResponse,
    "auth_role_add": pb.AuthRoleAddResponse,
    "auth_role_delete": pb.AuthRoleDeleteResponse,
    "auth_role_grant_permission": pb.AuthRoleGrantPermissionResponse,
    "auth_role_revoke_permission": pb.AuthRoleRevokePermissionResponse,
    "lock": lock_pb2.LockResponse,
    "unlock": lock_pb2.UnlockResponse,
}
PATHS = {
    "put": KV + "Put",
    "range": KV + "Range",
    "delete_range": KV + "DeleteRange",
    "txn": KV + "Txn",
    "compaction": KV + "Compact",
    "lease_grant": LEASE + "LeaseGrant",
    "lease_revoke": LEASE + "LeaseRevoke",
    "authenticate": AUTH + "Authenticate",
    **{
        kind: AUTH + "".join(word.title() for word in kind.removeprefix("auth_").split("_"))
        for kind in RESPONSES
        if kind.startswith("auth_") and kind not in ("auth_enable", "auth_disable")
    },
    "auth_enable": AUTH + "AuthEnable",
    "auth_disable": AUTH + "AuthDisable",
    "lock": "/v3lockpb.Lock/Lock",
    "unlock": "/v3lockpb.Lock/Unlock",
}
