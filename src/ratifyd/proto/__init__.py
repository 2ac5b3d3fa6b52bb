"""Messages and services of the API, of raft and of the files, in etcd's packages and with etcd's field numbers.

The *_pb2 modules are generated (tools/generate_proto.py) from proto/*.proto into a descriptor pool of their own, so
that clients that bring their own copy of the same files can live in the same process. `services` lists the RPC methods,
`fast` joins hot messages from bytes. Deliberately knows nothing of what messages mean.
"""
