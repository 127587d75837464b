"""Our own engine: adds images to a cache of ours, and deletes from it."""
