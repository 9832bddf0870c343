"""Every `>>>` example in the docstrings of the package is executed."""

import doctest
import importlib
from pathlib import Path

import numpy as np
import pytest

import minivit

PACKAGE = Path(minivit.__file__).parent
MODULES = sorted(  # `cuda/` can only be imported with CuPy
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text("utf-8") and "cuda" not in path.parts
)


def find_examples(name):
    """Return the docstrings of a module that contain examples."""
    tests = doctest.DocTestFinder().find(importlib.import_module(name), name)
    return [test for test in tests if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_give_the_documented_output(name, tmp_path):
    for example in find_examples(name):
        folder = tmp_path / example.name
        folder.mkdir()
        example.globs |= {"np": np, "minivit": minivit, "folder": folder}
        output = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        runner.run(example, out=output.append)
        assert runner.failures == 0, "".join(output)


PUBLIC = {
    "minivit.api": {
        "ViT", "ViT.create", "ViT.load", "ViT.save", "ViT.forward", "ViT.features", "ViT.attention"
    },
    "minivit.checking.gradcheck": {"gradcheck"},
    "minivit.models.config": {"ViTConfig"},
    "minivit.training.evaluate": {"evaluate"},
    "minivit.training.loop": {"train"},
    "minivit.training.recipe": {"Recipe"},
    "minivit.training.step": {"loss_and_gradients"},
    "minivit.tree": {"flatten", "unflatten"},
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLIC)
def test_the_public_functions_of_a_module_have_examples(name):
    found = {example.name.removeprefix(f"{name}.") for example in find_examples(name)}
    assert found >= PUBLIC[name]
