"""What every room stands on: errors, noise, flags, files, checked input, training."""
