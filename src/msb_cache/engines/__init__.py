"""Who adds and deletes: our own engine, or msb in a home that it keeps; what they decide in common."""
