"""A quality report that a physicist signs, after AAPM TG-132."""
