"""The qcow2 format, without any I/O: header, table entries, layout, compression."""
