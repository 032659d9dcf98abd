"""Which images rest on a file that may have to go."""
