"""The journal of a plan, and older plans that are kept for undoing."""
