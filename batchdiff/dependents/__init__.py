"""Find the images that depend on a file."""
