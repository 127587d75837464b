"""Read models folded from the log: images, details, holders, artifacts, deletion reports, history.

They know events, not disk, and can be thrown away and folded again at any time.
"""

FOLD_VERSION = 17
"""Raised whenever the same log folds to other rows; tables of another version are folded anew.

Raised for another view too: views are made with the tables."""
