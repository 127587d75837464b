"""A home in pictures: what happened, what takes the disk, who did it."""
