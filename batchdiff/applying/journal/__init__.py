"""What was done so far: a plan's journal, and plans that are kept for undoing."""
