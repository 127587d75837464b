"""Manifests, indexes, configs and platforms, decoded from hostile bytes."""
