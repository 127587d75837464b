"""The server: the report, live, and an API for programs; it reads only."""
