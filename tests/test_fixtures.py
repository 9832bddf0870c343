"""What the authors' own JAX code and Hugging Face's library computed, and what minivit does.

The gradients are compared as minivit's tree has them, where the biases of queries, keys and
values are one vector: that of the keys alone has no gradient, and both sides hold dust there.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from minivit import ViT, flatten
from minivit.weights import LAYOUTS
from minivit.weights.foreign import ForeignFile

DATA = os.environ.get("MINIVIT_TEST_DATA")
pytestmark = pytest.mark.skipif(
    not DATA, reason="MINIVIT_TEST_DATA does not name the folder of test data"
)
FIXTURES = Path(DATA or "") / "fixtures"
GOOGLE = ("token_prelogits", "gap", "token", "hybrid")
NAMES = (*GOOGLE, "huggingface")


def of_google(name):
    """A model of the authors' layout, and what was computed with it."""
    folder = FIXTURES / "google"
    with np.load(folder / f"{name}.expected.npz") as file:
        expected = dict(file)
    gradients = {n.removeprefix("grad/"): a for n, a in expected.items() if n.startswith("grad/")}
    return ViT.load(folder / f"{name}.npz"), expected, gradients


def of_hugging_face():
    folder = FIXTURES / "huggingface" / "small"
    expected = load_file(folder / "expected.safetensors")
    return ViT.load(folder), expected, load_file(folder / "gradients.safetensors")


def fixture(name):
    """A model, what was computed with it, and the gradients as a tree like its parameters."""
    model, expected, gradients = of_hugging_face() if name == "huggingface" else of_google(name)
    layout = "huggingface" if name == "huggingface" else "google"
    tree = ForeignFile(Path("gradients"), gradients, layout).tree(model.config)
    return model, expected, flatten(tree)


def distance(found, reference):
    """The norm of the difference over that of the reference, or over 1e-3 if that is larger."""
    return np.linalg.norm(found - reference) / max(np.linalg.norm(reference), 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_logits_and_gradients_are_those_of_others(name):
    model, expected, references = fixture(name)
    logits, pullback = model.forward(expected["images"])
    largest = abs(expected["logits"]).max()
    assert logits.dtype == np.float32
    assert abs(logits - expected["logits"]).max() <= 2e-6 * largest
    assert abs(model(expected["images"]) - expected["logits"]).max() <= 2e-6 * largest

    dimages, gradients = pullback(expected["dlogits"])
    found = flatten(gradients)
    assert found.keys() == references.keys()
    errors = {leaf: distance(found[leaf], references[leaf]) for leaf in found}
    errors["images"] = distance(dimages, expected["dimages"])
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("name", NAMES)
def test_the_bias_of_the_keys_has_no_gradient_on_either_side(name):
    model, expected, references = fixture(name)
    found = flatten(model.forward(expected["images"])[1](expected["dlogits"])[1])
    for i in range(model.config.depth):
        leaf = f"blocks/{i}/attention/qkv/bias"
        for gradient in (found[leaf], references[leaf]):
            query, key, value = np.split(gradient, 3)
            assert np.linalg.norm(key) < 1e-4 * np.linalg.norm(query)
            assert np.linalg.norm(key) < 1e-4 * np.linalg.norm(value)


@pytest.mark.parametrize("name", NAMES)
def test_another_gelu_or_another_epsilon_is_seen(name):
    # The bounds above are tight enough to tell the code bases apart.
    model, expected, _ = fixture(name)
    largest = abs(expected["logits"]).max()
    path = FIXTURES / ("huggingface/small" if name == "huggingface" else f"google/{name}.npz")
    others = {"gelu": "erf" if model.config.gelu == "tanh" else "tanh"}, {"norm_eps": 1e-5}
    for fields in others:
        logits = ViT.load(path, **fields)(expected["images"])
        assert abs(logits - expected["logits"]).max() > 2e-6 * largest, fields


def test_the_sizes_that_the_files_tell():
    configs = {name: fixture(name)[0].config for name in NAMES}
    fields = ("width", "depth", "heads", "mlp_width", "image_size", "patch_size", "classes")
    assert {name: [getattr(c, field) for field in fields] for name, c in configs.items()} == {
        "token_prelogits": [24, 2, 3, 40, (24, 24), 6, 7],
        "gap": [32, 3, 4, 48, (20, 20), 5, 5],
        "token": [18, 2, 2, 30, (28, 28), 7, 6],
        "hybrid": [24, 2, 3, 32, (32, 32), 1, 5],
        "huggingface": [24, 2, 3, 40, (24, 24), 6, 7],
    }
    assert configs["token_prelogits"].hidden_head == 24
    assert configs["gap"].pooling == "mean"
    assert (configs["hybrid"].stem, configs["hybrid"].stem_width) == ((1, 1), 32)
    for name, config in configs.items():
        theirs = name == "huggingface"
        assert (config.gelu, config.norm_eps) == (("erf", 1e-12) if theirs else ("tanh", 1e-6))


def test_the_attention_is_hugging_faces():
    model, expected, _ = fixture("huggingface")
    attention = model.attention(expected["images"])
    assert attention.shape == expected["attention"].shape == (2, 3, 3, 17, 17)
    np.testing.assert_allclose(attention, expected["attention"], rtol=0, atol=1e-6)
    assert abs(attention - expected["attention"][:, :, ::-1]).max() > 1e-3  # heads have an order


@pytest.mark.parametrize("name", NAMES)
def test_in_every_layout_they_come_back_bit_for_bit(tmp_path, name):
    model = fixture(name)[0]
    before = flatten(model.params)
    for layout in LAYOUTS:
        for ending in (".npz", ".safetensors"):
            path = tmp_path / f"model{ending}"
            model.save(path, layout)
            again = ViT.load(path)
            after = flatten(again.params)
            assert again.config == model.config
            assert after.keys() == before.keys()
            assert all(np.array_equal(after[leaf], before[leaf]) for leaf in before)


@pytest.mark.parametrize("name", GOOGLE)
def test_the_authors_get_their_own_arrays_back(tmp_path, name):
    with np.load(FIXTURES / "google" / f"{name}.npz") as file:
        theirs = dict(file)
    fixture(name)[0].save(tmp_path / "model.npz", "google")
    with np.load(tmp_path / "model.npz") as file:
        ours = {n: a for n, a in file.items() if n != "config"}
    if name == "gap":  # the one in flax's numbers
        new = {"LayerNorm_1": "LayerNorm_2", "MlpBlock_0": "MlpBlock_3", "tion_0": "tion_1"}
        for one, other in new.items():
            theirs = {n.replace(one, other): a for n, a in theirs.items()}
    assert ours.keys() == theirs.keys()
    for array in ours:
        assert np.array_equal(ours[array].ravel(), theirs[array].ravel()), array


def test_hugging_face_gets_its_own_arrays_back(tmp_path):
    fixture("huggingface")[0].save(tmp_path / "model", "huggingface")
    theirs = load_file(FIXTURES / "huggingface" / "small" / "model.safetensors")
    ours = load_file(tmp_path / "model" / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
