"""The log in formats that other systems read, and what of it is told to strangers."""
