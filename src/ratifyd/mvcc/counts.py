"""What has been done to a store, for the metrics of its owner: plain numbers, counted by whoever executes requests."""


class Counts:
    """Operations since the start of the process."""

    __slots__ = ("deletes", "gets", "put_bytes", "puts", "ranges", "txns")

    def __init__(self) -> None:
        self.gets = 0
        """Reads of one key that were not timed one by one; not part of `ranges`."""
        self.ranges = 0
        self.puts = 0
        self.put_bytes = 0
        """Bytes of keys and values."""
        self.deletes = 0
        self.txns = 0
        """Reads or writes of more than one operation."""

    @property
    def operations(self) -> int:
        """Whatever makes a transaction count once there is more than one."""
        return self.ranges + self.puts + self.deletes
