"""report.json and report.html: what was done, how well, and how to do it again."""
