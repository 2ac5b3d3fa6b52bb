"""Sockets and HTTP over asyncio: listeners, connections that tell HTTP/2 from HTTP/1.1, and an HTTP/1.1 server.

Nothing here knows what a request means: HTTP/2 bytes go to a session made by `open_session`, HTTP/1.1 requests to an
async `handle`. Limits and timeouts are arguments.
"""
