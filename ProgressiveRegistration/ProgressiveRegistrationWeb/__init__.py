"""The module's work in a browser: one user, one scene, no desktop; on trame-slicer's real MRML views."""
