"""The facilities of Linux beyond POSIX: extents, mounts, block devices, causes of failures."""
