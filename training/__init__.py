"""What `train.py` is made of: examples, optimisation, stability, the run's folder, and what one sees of it."""
