"""Image files: reading and writing them."""

LARGEST_LABEL = 2**15 - 1
"""Of a label map, which is kept as int16."""
