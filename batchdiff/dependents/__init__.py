"""Find the images that depend on a file, before the file is removed."""
