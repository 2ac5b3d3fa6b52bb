"""Talk between members over HTTP/1.1, byte for byte as etcd 3.5 and 3.6 do (package rafthttp there).

A member dials two long-lived streams to every other member and reads what comes: `msgapp` for appends, `message` for
the rest. While a stream is down, messages go as single POSTs; snapshots always do. Nothing here blocks: queues are
bounded, what does not fit is dropped and reported as unreachable. All of it runs on one event loop; only reading a
snapshot image for sending happens on a thread. Deliberately knows nothing of what messages mean, nor of membership
beyond the ids and URLs it is told.
"""
