"""The composition root: a whole member in this process, with real files, threads and sockets."""
