"""The multi-version key space: revisions, key index, store with write transactions, compaction, hashes and watching.

Everything runs on the loop and to completion; long work comes in slices. Bytes of values are etcd's (mvccpb.KeyValue
under 17-byte revision keys), so hashes equal etcd's for the same history. Knows nothing of raft, leases or users.
"""
