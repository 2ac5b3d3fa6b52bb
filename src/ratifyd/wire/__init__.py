"""Server side of HTTP/2 and gRPC without I/O: bytes in, events out, replies in, bytes out.

One `GrpcConnection` per client connection. It owns framing, header compression, flow control, stream states, limits
against floods and gRPC message framing; it never raises on anything a peer sends. It knows no clock (time is an
argument), no socket, no method table and no deadline timer: those belong to the session that drives it.
"""
