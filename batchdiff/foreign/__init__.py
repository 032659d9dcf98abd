"""The headers of formats that QEMU reads for batchdiff, inspected before QEMU sees the file; pure."""
