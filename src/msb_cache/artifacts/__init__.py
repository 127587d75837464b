"""What lies on disk under the home: layout, locks, EROFS images, VMDK descriptors. Knows no log."""
