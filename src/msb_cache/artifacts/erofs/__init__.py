"""EROFS images as Linux mounts them: the format's constants, a writer of metadata and a reader."""
