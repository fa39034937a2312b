"""What the Slicer module is made of: this may import ``slicer`` and ``qt``, the engine may not."""
