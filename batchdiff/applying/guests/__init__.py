"""Where a guest stands: its files, their names, and the next action."""
