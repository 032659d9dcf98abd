"""batchdiff: turn full copies of a virtual machine template back into thin overlays."""

__version__ = "0.1.0"
