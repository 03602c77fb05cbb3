"""Report pages: one HTML file each, which needs nothing else, in light and dark."""
