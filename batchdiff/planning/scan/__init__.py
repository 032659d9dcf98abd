"""Compare one range of all images, in worker processes."""
