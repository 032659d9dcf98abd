"""Read-only access to one image."""
