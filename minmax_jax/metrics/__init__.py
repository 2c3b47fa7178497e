"""Reducers of scores: `zero`, `add`, `merge` and `result` on small pytrees.

Scores of one pair (image, label) are pure functions for the caller's `vmap`; sums have one row for
each label. No file is read or written here, and nothing imports the rest of the package.
"""
