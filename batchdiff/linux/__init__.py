"""Linux facilities beyond POSIX: extents, mounts, block devices, causes of failures."""
