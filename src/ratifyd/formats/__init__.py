"""etcd's bytes on disk, as pure functions: snapshot files and the data inside them.

No file, clock or cluster state is touched here; golden bytes made by etcd pin every format.
"""
