"""batchdiff: turn full clones of a virtual machine template back into thin qcow2 overlays."""

__version__ = "0.1.0"
