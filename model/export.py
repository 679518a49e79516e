"""`python -m extensions.onnx.export` is `python -m extensions.onnx.export`, by its name of earlier versions."""

import runpy

if __name__ == "__main__":
    runpy.run_module("extensions.onnx.export", run_name="__main__")
