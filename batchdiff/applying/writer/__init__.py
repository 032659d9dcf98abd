"""Write new images: overlays, and standalone images in any format."""
