"""Weights and mels of other projects: published checkpoints, definitions of mels by name, what looks wrong with a mel."""
