"""Files as other programs write them: each format read by its own header,
or refused in one sentence that says why."""
