"""The size of an overlay, in its file and on disk, and the space that it saves."""
