"""Find the images that depend on a file before it is removed."""
