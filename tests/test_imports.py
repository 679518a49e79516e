"""Imports run one way: each part of the project knows only what stands before it in the list."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The parts from the ground up. Those of one line do not know each other.
LAYERS = [
    ("common",),
    ("model",),
    ("datasets", "benchmarking.metrics"),
    ("extensions", "training"),  # InferGrad is an extension of the training, which makes its previews with the extensions
    ("vocoder",),
    ("benchmarking",),
    ("train", "inference", "onnx_inference", "benchmark", "runs", "hubconf"),
]
HEIGHT = {name: height for height, layer in enumerate(LAYERS) for name in layer}
SOURCES = sorted({path for name in HEIGHT for path in [*ROOT.glob(f"{name}.py"), *ROOT.glob(f"{name}/**/*.py")]})


def part_of(module):
    """The part of the project that a module, by its dotted name, belongs to."""
    return "benchmarking.metrics" if module.startswith("benchmarking.metrics") else module.split(".")[0]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (part_of(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield part_of(node.module)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_upwards_or_sideways(path):
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    own = part_of(module)
    for name in imported(path):
        if name in HEIGHT and name != own and {name, own} != {"extensions", "training"}:
            assert HEIGHT[name] < HEIGHT[own], f"{module} imports {name}"


def test_the_model_knows_no_extension():
    """The paper is to be read without them. Fails even if one is named as text, as `importlib` would."""
    for path in ROOT.glob("model/**/*.py"):
        assert not {"extensions", "training"} & set(imported(path)), path
        assert "import_module" not in path.read_text(), path


def test_the_parts_are_those_that_there_are():
    found = {path.stem for path in ROOT.glob("*.py")} | {path.parent.name for path in ROOT.glob("*/*.py")}
    assert found - {"tests"} == {name.split(".")[0] for name in HEIGHT}
