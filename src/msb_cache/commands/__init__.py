"""What changes a home, whoever keeps it: acquire, save, remove, holds."""
