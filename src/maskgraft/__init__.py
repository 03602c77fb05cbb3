"""Any Mask R-CNN checkpoint, alive in PyTorch."""

__version__ = "0.1.0"
