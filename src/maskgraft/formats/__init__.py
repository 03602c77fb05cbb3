"""Annotations as other tools write them, one module a format; each reads a source into `Photo`s."""
