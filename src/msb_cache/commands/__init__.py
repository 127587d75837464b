"""What changes a home, ours or msb's: acquire, save, remove, holds."""
