"""What msb's home says: its configuration, its program, its database, and what changed there."""
