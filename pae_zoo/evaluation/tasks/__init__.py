"""Tasks: a module here that has a `run(context)` is one."""
