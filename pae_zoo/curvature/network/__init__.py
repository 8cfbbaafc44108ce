"""A Keras network read once: its layers, their weights, and how weights become matrices."""
