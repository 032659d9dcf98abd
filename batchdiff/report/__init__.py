"""Plans and results as text or JSON: pure functions that return strings."""
