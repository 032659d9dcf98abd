"""Checks before a file is written, published or retired."""
