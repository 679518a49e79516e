"""InferGrad (Chen et al., 2022) and what judges its waveforms; `training.infer_grad` in the configuration, off by default."""
