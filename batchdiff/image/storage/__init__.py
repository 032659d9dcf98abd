"""What images take on their filesystems: allocation, shared and preallocated blocks."""
