"""The engine of a home that msb keeps: msb acts, and what it did is recorded."""
