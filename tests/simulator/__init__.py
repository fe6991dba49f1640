"""A seeded simulator of the ledger: many short histories with crashes, lost replies and late usage, each decided by its seed alone.

`python -m tests.simulator SEED` replays one history and prints its trace; `python -m tests.simulator FROM TO` runs many.
"""
