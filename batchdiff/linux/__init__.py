"""What Linux reports and does beyond POSIX: extents, mounts, block devices, causes of failures."""
