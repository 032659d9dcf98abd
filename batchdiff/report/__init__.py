"""Plans and results as text or JSON: pure functions to strings."""
