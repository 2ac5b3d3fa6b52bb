"""Consensus: etcd's raft as a pure, deterministic state machine.

Inputs are method calls (`step`, `tick`, `propose`, ...), the output is drained with `Raft.ready`; no clock, no IO, no
logging, no randomness of its own. `core` owns the state; `leader`, `follower` and `election` hold the rules of the
roles; `log`, `progress`, `quorum`, `confchange` and `reads` are the parts; `codec` is the only place that knows bytes.
"""
