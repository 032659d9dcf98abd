"""VM definitions of libvirt, and what must change in those that use a plan's guests."""
