"""Work in blocks that a processor's cache holds."""
