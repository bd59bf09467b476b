"""The monitor in other people's loops; each file imports its framework, and nothing else does."""
