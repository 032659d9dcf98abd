"""Which images name which backing files, by their headers alone."""
