"""Users and roles, and the bytes of their rows in the backend (formats 5.6, 5.7)."""

from typing import NamedTuple

from ratifyd.auth.identity import name_of, raw_name
from ratifyd.proto.auth_pb2 import Permission, UserAddOptions
from ratifyd.proto.auth_pb2 import Role as RoleRecord
from ratifyd.proto.auth_records_pb2 import RecordedUser


class User(NamedTuple):
    """A user. `no_password` is None in rows older than the option."""

    name: str
    password: bytes
    """bcrypt text; empty for a user who has none."""
    roles: tuple[str, ...]
    """In byte order."""
    no_password: bool | None

    @classmethod
    def decode(cls, data: bytes) -> "User":
        """A row of bucket `authUsers`."""
        record = RecordedUser.FromString(data)
        no_password = record.options.no_password if record.HasField("options") else None
        return cls(name_of(record.name), record.password, tuple(map(name_of, record.roles)), no_password)

    def encode(self) -> bytes:
        """The row of bucket `authUsers`; options are there even when they say nothing (formats 5.6)."""
        options = None if self.no_password is None else UserAddOptions(no_password=self.no_password)
        record = RecordedUser(
            name=raw_name(self.name), password=self.password, roles=map(raw_name, self.roles), options=options
        )
        return record.SerializeToString()


class Role(NamedTuple):
    """A role and its permissions, sorted by key alone."""

    name: str
    permissions: tuple[Permission, ...]

    @classmethod
    def decode(cls, data: bytes) -> "Role":
        """A row of bucket `authRoles`."""
        record = RoleRecord.FromString(data)
        return cls(name_of(record.name), tuple(record.keyPermission))

    def encode(self) -> bytes:
        """The row of bucket `authRoles`."""
        return RoleRecord(name=raw_name(self.name), keyPermission=self.permissions).SerializeToString()
