"""A layer's bytes: decompressed, and read as a tar. Not what they mean for a file system."""
