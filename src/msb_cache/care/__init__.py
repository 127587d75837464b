"""Looking after a home: what it takes of the disk."""
