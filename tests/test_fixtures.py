"""Logits, gradients and attention weights of the authors' JAX code and of Hugging Face's library.

The bias of the keys has no gradient. Both sides compute rounding errors there, so gradients are
compared in minivit's tree, in which the biases of queries, keys and values are one vector.
"""

import os
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from minivit import ViT, flatten
from minivit.weights.convert import ModelFile

DATA = os.environ.get("MINIVIT_TEST_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="MINIVIT_TEST_DATA is not set")
FIXTURES = Path(DATA or "") / "fixtures"
NAMES = ("token_prelogits", "gap", "token", "hybrid")
PATHS = {name: FIXTURES / "google" / f"{name}.npz" for name in NAMES}
PATHS["huggingface"] = FIXTURES / "huggingface" / "small"


@cache
def fixture(name):
    """Return a model, the results of another implementation, and its gradients by leaf."""
    path = PATHS[name]
    if path.is_dir():
        expected = load_file(path / "expected.safetensors")
        gradients = load_file(path / "gradients.safetensors")
    else:
        with np.load(path.with_suffix(".expected.npz")) as file:
            expected = dict(file)
        gradients = {n.removeprefix("grad/"): a for n, a in expected.items() if "grad/" in n}
    model = ViT.load(path)
    return model, expected, flatten(ModelFile(path, gradients).read(model.config))


def backpropagate(name):
    model, expected, _ = fixture(name)
    logits, pullback = model.forward(expected["images"])
    dimages, gradients = pullback(expected["dlogits"])
    return logits, dimages, flatten(gradients)


def relative_error(found, reference):
    return np.linalg.norm(found - reference) / max(np.linalg.norm(reference), 1e-3)


@pytest.mark.parametrize("name", PATHS)
def test_logits_and_gradients(name):
    model, expected, references = fixture(name)
    logits, dimages, found = backpropagate(name)
    largest = abs(expected["logits"]).max()
    assert logits.dtype == np.float32
    assert abs(logits - expected["logits"]).max() <= 2e-6 * largest
    assert abs(model(expected["images"]) - expected["logits"]).max() <= 2e-6 * largest

    assert found.keys() == references.keys()
    errors = {leaf: relative_error(found[leaf], references[leaf]) for leaf in found}
    errors["images"] = relative_error(dimages, expected["dimages"])
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("name", PATHS)
def test_the_bias_of_the_keys_has_no_gradient(name):
    model, _, references = fixture(name)
    found = backpropagate(name)[2]
    for i in range(model.config.depth):
        leaf = f"blocks/{i}/attention/qkv/bias"
        for gradient in (found[leaf], references[leaf]):
            query, key, value = map(np.linalg.norm, np.split(gradient, 3))
            assert key < 1e-4 * min(query, value)


@pytest.mark.parametrize("name", PATHS)
def test_the_tolerance_detects_another_gelu_or_epsilon(name):
    model, expected, _ = fixture(name)
    largest = abs(expected["logits"]).max()
    for fields in {"gelu": "erf" if model.config.gelu == "tanh" else "tanh"}, {"norm_eps": 1e-5}:
        logits = ViT.load(PATHS[name], **fields)(expected["images"])
        assert abs(logits - expected["logits"]).max() > 2e-6 * largest, fields


def test_the_inferred_configurations():
    configs = {name: fixture(name)[0].config for name in PATHS}
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
        expected = ("erf", 1e-12) if name == "huggingface" else ("tanh", 1e-6)
        assert (config.gelu, config.norm_eps) == expected


def test_the_attention_weights_of_hugging_face():
    model, expected, _ = fixture("huggingface")
    attention = model.attention(expected["images"])
    assert attention.shape == expected["attention"].shape == (2, 3, 3, 17, 17)
    np.testing.assert_allclose(attention, expected["attention"], rtol=0, atol=1e-6)
    assert abs(attention - expected["attention"][:, :, ::-1]).max() > 1e-3  # heads are ordered


@pytest.mark.parametrize("name", PATHS)
def test_the_original_arrays_are_written_back(tmp_path, name):
    model = fixture(name)[0]
    if name == "huggingface":
        model.save(tmp_path / "model", "huggingface")
        original = load_file(PATHS[name] / "model.safetensors")
        written = load_file(tmp_path / "model" / "model.safetensors")
    else:
        model.save(tmp_path / "model.npz", "google")
        with np.load(PATHS[name]) as one, np.load(tmp_path / "model.npz") as other:
            original, written = dict(one), {n: a for n, a in other.items() if n != "config"}
    if name == "gap":  # written with Flax Linen
        linen = {"LayerNorm_1": "LayerNorm_2", "MlpBlock_0": "MlpBlock_3", "tion_0": "tion_1"}
        for new, old in linen.items():
            original = {n.replace(new, old): a for n, a in original.items()}
    assert written.keys() == original.keys()
    for array in written:  # group norms may have leading axes of length one
        assert np.array_equal(written[array].ravel(), original[array].ravel()), array
