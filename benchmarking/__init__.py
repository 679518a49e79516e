"""What `benchmark.py` is made of: one module for each of its subcommands, and what they share."""
