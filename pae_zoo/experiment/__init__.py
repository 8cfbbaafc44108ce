"""A run from its command to its folder: flags, the session, fitting, checkpoints, what is printed."""
