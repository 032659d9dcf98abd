"""Write a qcow2 or raw image: layout, metadata and data."""
