"""What `batchdiff discover` has found, as text and as events."""
