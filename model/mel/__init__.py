"""Log-mel spectrograms: definition, presets, statistics, diagnosis."""
