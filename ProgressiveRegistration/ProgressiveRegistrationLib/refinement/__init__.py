"""Refining one pair's field from its images alone."""
