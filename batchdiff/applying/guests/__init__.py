"""The state of a guest: its files, their names, and the next action."""
