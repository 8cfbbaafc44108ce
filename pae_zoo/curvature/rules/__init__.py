"""What is known of each layer: derivatives, products, propagation."""
