"""The gradient checker finds every planted mistake and accepts every correct counterpart."""

import inspect

import numpy as np
import pytest
from helpers.planted_mistakes import MISTAKES

from minivit import ViTConfig, gradcheck
from minivit.checking.cases import Case, perturb
from minivit.layers import self_attention
from minivit.models import initialise, vit


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found_by_its_gradient_alone(name):
    wrong, correct, arguments, refused = MISTAKES[name]
    report = gradcheck(correct, *arguments)
    assert report.worst <= 1e-12, str(report)
    if refused:
        with pytest.raises(TypeError, match="returns another value when it is called again"):
            gradcheck(wrong, *arguments)
        return
    np.testing.assert_allclose(wrong(*arguments)[0], correct(*arguments)[0], rtol=1e-15)
    report = gradcheck(wrong, *arguments)
    assert report.worst > 1e-6
    assert report.explanation


def test_the_collection_is_complete():
    assert len(MISTAKES) == 65


# A mistake inside a model is located by the names of the wrong gradients.

CONFIG = ViTConfig(
    image_size=(4, 6), patch_size=2, classes=5, width=12, depth=2, heads=4, mlp_width=7
)


def wrong_gradients():
    """Return the names of the gradients of a model that the checker reports."""
    rng = np.random.default_rng(0)
    params = perturb(initialise(CONFIG, 0, "float64"), rng)
    images = rng.normal(size=(2, *CONFIG.image_size, 3))
    report = Case("vit", vit, (images, params, CONFIG), directions=2).check()
    return {name for name, error in report.items() if not error <= 1e-12}


def test_the_model_passes():
    assert wrong_gradients() == set()


@pytest.mark.parametrize(
    ("layer", "mistake", "name"),
    [
        ("add_positions", "positions_averaged", "params/positions/table"),
        ("add_positions", "positions_not_summed", "params/positions/table"),
        ("prepend_class_token", "class_token_frozen", "params/class_token"),
    ],
)
def test_a_mistake_in_one_parameter_is_located(monkeypatch, layer, mistake, name):
    monkeypatch.setattr(inspect.getmodule(vit), layer, MISTAKES[mistake].wrong)
    assert wrong_gradients() == {name}


def test_a_mistake_in_every_block_affects_all_earlier_layers(monkeypatch):
    softmax = MISTAKES["softmax_only_diagonal"].wrong
    monkeypatch.setattr(inspect.getmodule(self_attention), "softmax", softmax)
    wrong = wrong_gradients()
    assert {"images", "params/class_token", "params/blocks/0/norm1/scale"} <= wrong
    assert "params/blocks/1/attention/qkv/kernel" in wrong
    later = ("params/head", "params/blocks/1/mlp", "params/blocks/1/attention/out")
    assert not any(name.startswith(later) for name in wrong)
