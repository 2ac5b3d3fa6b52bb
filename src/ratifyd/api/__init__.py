"""What requests mean: sessions, gates, validation and the RPC handlers, on top of a `Server`.

Quiet: bytes come in and go out through a link; time and scheduling are the server's clock. Hot handlers are plain
functions that end in `call.reply` or `call.fail`, at once or from a callback; streams are objects fed by their session.
"""
