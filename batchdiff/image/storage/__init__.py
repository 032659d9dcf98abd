"""The space that images take on disk: allocation, shared and preallocated blocks."""
