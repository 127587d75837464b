"""What is asked of the log and the index: images, events, the past, reasons. Nothing here writes."""
