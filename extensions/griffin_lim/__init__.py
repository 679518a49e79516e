"""Griffin-Lim (Griffin and Lim, 1984) for the start (shallow diffusion) and the end (GLA-Grad) of a synthesis; off by default."""
