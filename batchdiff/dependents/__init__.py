"""Find the images that rest on a file before it is removed."""
