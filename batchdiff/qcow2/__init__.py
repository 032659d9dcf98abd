"""The qcow2 format itself, pure: header, table entries, layout, compression."""
