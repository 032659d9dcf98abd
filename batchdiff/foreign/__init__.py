"""Formats besides raw and qcow2: headers, inspected before QEMU opens a file, and new QED files."""
