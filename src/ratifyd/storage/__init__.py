"""What a member keeps on disk: the WAL, the backend, snapshot files, and how a member comes back from them.

Nothing is acknowledged before it is durable, and a failed sync is never retried. Knows bytes, files and worker threads;
deliberately does not know what an entry means or who leads.
"""
