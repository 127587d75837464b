"""OCI references, documents, layer tars and archives: what an image is, not where this cache keeps it.

Nothing is imported here, so that a command that only parses a reference stays fast; import the modules.
"""
