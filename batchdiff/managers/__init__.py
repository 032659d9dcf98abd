"""The folders and names that VM managers use for images: Proxmox VE, oVirt, Nova; pure."""
