"""One home's database: opened, read consistently, written in transactions; and its operations."""
