"""Where VM managers keep images, and by which names they know them: Proxmox VE, oVirt, Nova; pure."""
