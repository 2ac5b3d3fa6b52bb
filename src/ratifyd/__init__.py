"""ratifyd: an etcd v3-compatible, consistent, distributed key-value store in Python."""
