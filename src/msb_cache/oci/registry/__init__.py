"""Registries: what a reference means there, and the blobs it gives."""
