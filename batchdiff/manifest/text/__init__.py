"""A manifest as text: its bytes, the line of each value, and every problem found in it."""
