"""The manifest: read, checked, and resolved to the images that it names."""
