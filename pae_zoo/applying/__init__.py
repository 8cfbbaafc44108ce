"""A trained run on a user's data: what it reads, computes and writes."""
