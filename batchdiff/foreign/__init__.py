"""The headers of formats that QEMU reads for batchdiff, inspected before QEMU opens the file; pure."""
