"""The arithmetic of Mask R-CNN as pure functions; every convention is an argument without a default."""
