"""Checks of images and disk space."""
