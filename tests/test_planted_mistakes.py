"""The checker against the zoo: every planted mistake is caught, and every twin passes."""

import inspect

import numpy as np
import pytest
from helpers import planted_mistakes as zoo
from helpers.planted_mistakes import ZOO, Specimen

from minivit import ViTConfig, gradcheck
from minivit.layers import self_attention
from minivit.models import initialise, resnet_stem, vit
from minivit.tree import map_tree


def name_of(specimen):
    return specimen.wrong.__name__


every = pytest.mark.parametrize("specimen", ZOO, ids=name_of)


def test_the_zoo_is_large_and_labelled():
    assert len(ZOO) >= 18
    assert len({name_of(specimen) for specimen in ZOO}) == len(ZOO)
    for specimen in ZOO:
        assert inspect.getdoc(specimen.wrong), name_of(specimen)


@every
def test_the_mistake_is_caught(specimen):
    if specimen.refused:
        with pytest.raises(TypeError, match="another value when called again"):
            gradcheck(specimen.wrong, *specimen.arguments)
    else:
        errors = gradcheck(specimen.wrong, *specimen.arguments)
        assert errors.worst > 1e-6
        assert errors.explanation


@every
def test_the_twin_passes(specimen):
    errors = gradcheck(specimen.right, *specimen.arguments)
    assert errors.worst <= 1e-12, str(errors)


@every
def test_only_the_gradient_gives_the_mistake_away(specimen):
    wrong, right = (f(*specimen.arguments)[0] for f in (specimen.wrong, specimen.right))
    if not specimen.refused:
        np.testing.assert_allclose(wrong, right, rtol=1e-15)


def test_an_honest_function_would_not_be_called_caught():
    honest = Specimen(zoo.half_block, zoo.half_block, zoo.block[1:], refused=False)
    with pytest.raises(AssertionError):
        test_the_mistake_is_caught(honest)


# Let loose in the model, a mistake is still found, and where it is can be told from the names.

CONFIG = ViTConfig(
    image_size=(4, 6), patch_size=2, classes=5, width=12, depth=2, heads=4, mlp_width=7
)


HYBRID = ViTConfig(
    image_size=(8, 12), patch_size=1, classes=5, width=12, depth=1, heads=4, mlp_width=7,
    stem=(1,), stem_width=32,
)  # fmt: skip


def errors_of_the_model(config):
    rng = np.random.default_rng(0)
    params = initialise(config, 0, "float64")
    params = map_tree(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape), params)

    def model(images, params):
        return vit(images, params, config)

    return gradcheck(model, rng.normal(size=(2, *config.image_size, 3)), params, directions=2)


def wrong_names(config=CONFIG):
    return {name for name, error in errors_of_the_model(config).items() if not error <= 1e-12}


def test_the_model_passes():
    assert wrong_names() == set()


@pytest.mark.parametrize(
    ("layer", "wrong", "names"),
    [
        ("add_positions", zoo.positions_averaged, {"params/positions/table"}),
        ("add_positions", zoo.positions_not_summed, {"params/positions/table"}),
        ("prepend_class_token", zoo.class_token_frozen, {"params/class_token"}),
    ],
)
def test_a_mistake_in_the_model_is_found_by_name(monkeypatch, layer, wrong, names):
    monkeypatch.setattr(inspect.getmodule(vit), layer, wrong)
    assert wrong_names() == names


def test_a_mistake_in_every_block_spoils_what_lies_before_it(monkeypatch):
    # What comes after the last softmax is still right.
    module = inspect.getmodule(self_attention)
    monkeypatch.setattr(module, "softmax", zoo.softmax_only_diagonal)
    wrong = wrong_names()
    assert {"images", "params/class_token", "params/blocks/0/norm1/scale"} <= wrong
    assert "params/blocks/1/attention/qkv/kernel" in wrong
    last = ("out/kernel", "out/bias")
    assert not wrong & {f"params/blocks/1/attention/{name}" for name in last}
    assert not any(name.startswith(("params/head", "params/blocks/1/mlp")) for name in wrong)


def test_the_hybrid_passes():
    assert wrong_names(HYBRID) == set()


@pytest.mark.parametrize(
    ("layer", "wrong", "names"),
    [
        (
            "standardised_convolution",
            zoo.gradient_of_the_standardised_kernel,
            {"conv", "stages/0/0/conv1", "stages/0/0/conv2", "stages/0/0/conv3"}
            | {"stages/0/0/conv_shortcut"},
        ),
        # What lies before the pooling: the root.
        ("max_pool", zoo.max_pooled_back_as_a_mean, {"conv", "norm"}),
    ],
)
def test_a_mistake_in_the_stem_is_found_by_name(monkeypatch, layer, wrong, names):
    monkeypatch.setattr(inspect.getmodule(resnet_stem), layer, wrong)
    found = {name.rpartition("/")[0] for name in wrong_names(HYBRID) - {"images"}}
    assert found == {f"params/stem/{name}" for name in names}
