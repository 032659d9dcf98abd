"""Samples of images: which parts to read, and how far an estimate can be from the truth; pure."""
