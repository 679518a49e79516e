"""WaveGrad (Chen et al., 2020, arXiv 2009.00713): the network, the diffusion around it, and the features it is conditioned on."""
