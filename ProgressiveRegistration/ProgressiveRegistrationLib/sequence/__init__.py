"""From phases to breathing: all images of a 4DCT, or of a patient's follow-ups, registered to one of them."""
