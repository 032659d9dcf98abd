"""The backing files that images name, found in their headers alone."""
