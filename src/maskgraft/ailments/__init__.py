"""Causes of trainings that go wrong: plain functions from what was measured to findings, a module for each kind."""
