"""The replicated state machine: what committed entries do to the state, and nothing else.

Every member runs this code over the same entries and must end in the same state: no clock, no randomness, no raft, no
I/O beyond the write buffer. A `RequestError` is an answer; any other exception stops the member, because a state
that cannot be computed must not be guessed.
"""
