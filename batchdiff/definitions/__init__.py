"""VM definitions of libvirt and Proxmox VE, and what must change for a plan's guests."""
