"""Whole clusters in one process on a virtual clock, network and disk, all of it drawn from one seed.

    python -m simulation --seeds 1..100

`options` draws a seed's swarm, `world` runs it: `member` is the server's own code on simulated ports (`clock`, `disk`,
`backend`, `network`), `clients` work on it through `connection`, `faults` does its worst. `checkers` hold the promises,
`model` is what etcd should answer. `mutants` are bugs planted to see the checkers fail, `scenarios` the bugs etcd had.
Development only.
"""
