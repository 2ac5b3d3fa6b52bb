"""Random requests against two servers side by side; every answer, error, event and hash must agree.

    python -m differential --seeds 1..20 --ops 5000 --left etcd --right ratifyd

`generator` draws operations from a seed, `sides` carries them to one server, `watching` knows which events each watcher
must have seen, `compare` decides whether two messages agree (the table of what may differ is there), `runner` puts
these together, `shrink` shortens a failing sequence, `scenarios` holds what needs time to pass. Development only.
"""
