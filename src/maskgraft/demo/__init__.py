"""`maskgraft demo`: a foreign backbone, grafted, retrained on real photographs and judged, in three minutes."""
