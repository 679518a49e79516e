"""A whole synthesis as one ONNX graph, for programs without PyTorch; not of the paper, and nothing else depends on it."""
