"""Read-only access to one image, and to what the system knows about its file."""
