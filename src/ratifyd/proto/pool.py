"""The package's own descriptor pool: etcd clients register files and messages of the same names in the default one."""

from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
"""Holds every message and service of this package, and nothing else."""
