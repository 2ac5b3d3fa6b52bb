"""The member: turns, proposals, reads and the leader's duties.

Quiet: it owns all state and decides everything, but reaches the world only through ports. External events never act;
they leave work behind and call `Node.wake()`.
"""
