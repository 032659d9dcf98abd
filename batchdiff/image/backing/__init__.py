"""The files that images name: backing files, extents and data files."""
