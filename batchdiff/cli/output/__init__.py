"""Streams that never make the work wait, and the progress bar."""
