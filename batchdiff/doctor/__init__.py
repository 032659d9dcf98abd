"""What this machine and its filesystems can do for batchdiff."""
