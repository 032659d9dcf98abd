"""The places and names by which VM managers know their images: Proxmox VE, oVirt, Nova; pure."""
