"""stdout and stderr, the progress bar, and the fields of events."""
