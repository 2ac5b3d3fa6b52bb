"""Every bound of one client connection, in one place.

Defaults are grpc-go's as etcd 3.5 configures it where that has one; the flood limits are ours, chosen so that no
well-behaved client meets them. Sizes are bytes, intervals seconds.
"""

from dataclasses import dataclass

UNLIMITED_STREAMS = 2**32 - 1


@dataclass(slots=True)
class Limits:
    """Bounds of a `GrpcConnection`; read when the connection is made, shared by many connections."""

    max_concurrent_streams: int = UNLIMITED_STREAMS
    """Open streams; more are refused (REFUSED_STREAM). Not announced when unlimited, as grpc-go."""
    max_message_bytes: int = 2_097_152
    """One received gRPC message: etcd's max-request-bytes plus 512 KiB."""
    max_http_body_bytes: int = 2_097_152
    """Whole body of a request that is not gRPC; larger is answered 413."""
    expansion_burst_bytes: int = 134_217_728
    """What may come out of compressed messages at once, beyond what came in; more is refused."""
    expansion_refill_bytes_per_s: float = 134_217_728.0
    max_buffered_bytes: int = 268_435_456
    """All unfinished messages and bodies of the connection together."""
    max_unread_bytes: int = 1 << 30
    """Answers the client has not taken yet, together; with more waiting, further large ones are refused."""
    max_header_list_bytes: int = 65_536
    """Decoded header list as RFC 9113 §6.5.2 counts it; a larger one resets the stream."""
    max_header_block_bytes: int = 131_072
    """Compressed header block over all its CONTINUATION frames; a larger one ends the connection."""
    max_continuation_frames: int = 32
    """CONTINUATION frames of one header block."""
    max_frame_bytes: int = 16_384
    """SETTINGS_MAX_FRAME_SIZE announced."""
    stream_window_bytes: int = 4_194_304
    """SETTINGS_INITIAL_WINDOW_SIZE announced; at least 65,535."""
    connection_window_bytes: int = 16_777_216
    """Receive window of the connection; at least 65,535."""
    header_table_bytes: int = 4_096
    """HPACK dynamic table the client may fill."""
    min_ping_interval_s: float = 5.0
    """Client PINGs closer together than this are strikes (etcd grpc-keepalive-min-time)."""
    idle_ping_interval_s: float = 7_200.0
    """The same while no stream is open and `permit_ping_without_stream` is False."""
    permit_ping_without_stream: bool = False
    max_ping_strikes: int = 2
    """One strike more ends the connection with "too_many_pings"."""
    reset_burst: int = 4_096
    """Streams the client may spoil (reset unanswered, or break) in a burst; each answered call gives one back."""
    reset_refill_per_s: float = 100.0
    idle_frame_burst: int = 10_000
    """Frames that carry nothing (empty DATA, PRIORITY, SETTINGS, unknown types) in a burst."""
    idle_frame_refill_per_s: float = 1_000.0
    max_control_frames: int = 10_000
    """Frames queued in answer to the client's (acknowledgements, resets) and not yet taken by `data_to_send`."""
    send_low_water_bytes: int = 65_536
    """A stream that queued more than this reports `Writable` once it has drained to it."""
