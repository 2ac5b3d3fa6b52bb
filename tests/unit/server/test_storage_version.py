"""What the version of the backend is called (etcd UnsafeDetectSchemaVersion)."""

from ratifyd import schema
from tests.support_member import Member


def test_a_backend_without_a_version_is_one_of_3_5_once_it_has_a_term() -> None:
    member = Member(stepped=True).start()
    buffer = member.state.buffer
    buffer.put(schema.META, schema.STORAGE_VERSION, None)
    buffer.put(schema.META, schema.TERM, None)
    assert member.server.storage_version == ""
    buffer.put(schema.META, schema.TERM, schema.encode_u64(2))
    assert member.server.storage_version == "3.5.0"
    buffer.put(schema.META, schema.STORAGE_VERSION, b"3.6.0")
    assert member.server.storage_version == "3.6.0"
