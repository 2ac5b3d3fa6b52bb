"""Bugs to be caught: each plants one deliberate mistake in the server, as a patch that lives here and never in src.

A mutant is a function that patches; its docstring says what is broken. The share of them that the checkers catch within
a few dozen seeds is the measure of the simulation.
"""

from simulation.mutants import disk, members, requests, server
from simulation.mutants.planting import MUTANTS, planted

__all__ = ["MUTANTS", "disk", "members", "planted", "requests", "server"]
