"""What an overlay will take on disk, and what it saves."""
