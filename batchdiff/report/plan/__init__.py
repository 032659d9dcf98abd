"""The savings report of a plan, in each of its forms."""
