"""Who may do what: users, roles, the key ranges their permissions cover, and the tokens that stand for a user.

Quiet: no clock, no randomness, no I/O. What the log decides (users, roles, whether auth is on) is the same on every
member; tokens are each member's own.
"""
