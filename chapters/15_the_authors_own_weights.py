# %% [markdown]
# # 15. The authors' own weights
#
# The authors put their trained models on the web as .npz files: zips of arrays with names. Can
# NumPy alone open one, and does the model answer as in the code it came from? Take Equation 5:
#
# $$ [q, k, v] = z U_{qkv}, \qquad U_{qkv} ∈ ℝ^{D × 3D} \qquad (5) $$
#
# No such file has this $U_{qkv}$ of all heads. It has three arrays of three axes each, and no word
# about what belongs where. In how many ways can one misread it, and what does each cost?

# %%
import dataclasses
import os
import re
import tempfile
from pathlib import Path

import numpy as np

import minivit
from minivit import analysis, data, layers, weights
from minivit.models import vit

# %% [markdown]
# ## A list of names
#
# To run anywhere, this page first writes such a file itself: the arrays of chapter 13's model, by
# the authors' names, in their shapes. NumPy lists them; of the four blocks it is enough to see one.

# %%
model, folder = minivit.ViT.load(data.SCATTERED_MODEL), tempfile.TemporaryDirectory()
file = Path(folder.name) / "scattered.npz"
np.savez(file, **weights.export(model.params, model.config, "google"))
arrays = dict(np.load(file))
for name, array in arrays.items():
    if not re.search("block_[1-3]", name):
        print(f"{name:71} {array.shape}")

# %% [markdown]
# A dense kernel is (in, out), as here. That of the patches has rows, columns, channels and $D$:
# with the first three axes joined it is chapter 2's $E$. The numbers 0 to 3 count a block's parts;
# newer files count each kind of part by itself (`LayerNorm_1`, `MlpBlock_0`).
#
# The kernels of query, key and value are $(D, k, D_h)$: from each entry of a token to each entry of
# each head. The columns of $U_{qkv}$ are all queries, head by head, then all keys, then all values.
# `naive_qkv` fills them in loops. The rest is renaming. Where an array has more than two axes, all
# but the last are joined: so the kernel of `out`, $(k, D_h, D)$, becomes $U_{msa}$.


# %%
def naive_qkv(query, key, value):  # (D, h, Dh) each, or biases (h, Dh)
    *leading, heads, Dh = query.shape
    U = np.empty((*leading, 3 * heads * Dh), query.dtype)  # (D, 3 D), or (3 D,)
    for n, array in enumerate((query, key, value)):
        for h in range(heads):
            for i in range(Dh):
                U[..., (n * heads + h) * Dh + i] = array[..., h, i]
    return U


MINIVIT_NAMES = {
    "Transformer/encoderblock_": "blocks/",
    "MultiHeadDotProductAttention_1": "attention",
    "LayerNorm_0": "norm1",
    "LayerNorm_2": "norm2",
    "Transformer/encoder_norm": "norm",
    "MlpBlock_3/Dense_0": "mlp/hidden",
    "MlpBlock_3/Dense_1": "mlp/out",
    "^emb": "patch_emb",
    "Transformer/posembed_input/pos_embedding": "positions/table",
    "cls": "class_token",
}


# %%
def naive_load(arrays):
    flat = {}
    for name, array in arrays.items():
        minivit_name = name
        for pattern, replacement in MINIVIT_NAMES.items():
            minivit_name = re.sub(pattern, replacement, minivit_name)
        if "query" in name:  # handle key and value together with it
            qkv = [arrays[name.replace("query", s)] for s in ("query", "key", "value")]
            flat[minivit_name.replace("query", "qkv")] = naive_qkv(*qkv)
        elif not re.search("key|value", name):
            flat[minivit_name] = array.reshape(-1, array.shape[-1]) if array.ndim > 2 else array
    flat["class_token"] = flat["class_token"][0]  # remove the batch axis of (1, D)
    return minivit.unflatten(flat)


# %% [markdown]
# `ViT.load` does this for whatever file it meets. Names and shapes tell it depth, width, heads,
# patches and classes; 37 positions are a class token and a grid of 6 x 6. No shape tells the GELU,
# or $ε$: it takes the authors'. All weights must agree, bit for bit, and the configuration, but for
# two entries: how positions were first drawn, and how photographs are brought to the model.

# %%
loaded = minivit.ViT.load(file)
c = loaded.config
print(f"L = {c.depth}, D = {c.width}, heads: {c.heads}, image size: {c.image_size}, GELU: {c.gelu}")
assert dataclasses.replace(c, position_std=0.1, preprocessing="minivit") == model.config


def leaf_bytes(tree):
    return {name: (a.shape, a.dtype, a.tobytes()) for name, a in minivit.flatten(tree).items()}


assert leaf_bytes(loaded.params) == leaf_bytes(naive_load(arrays)) == leaf_bytes(model.params)

# %% [markdown]
# ## What a misreading costs
#
# A wrong shape is noticed. But $k D_h = D$, and so most mistakes fit. Here are nine, one at a time,
# on 400 held-out images: how far off is the worst logit, and how many digits are still read?
# **Guess before you run on.** Which would you overlook?

# %%
scattered = data.load_scattered(n=1)  # the training images are not used
images, labels = scattered.held_out_images[:400], scattered.held_out_labels[:400]
reference = model(images)  # (400, 10)
assert np.array_equal(loaded(images), reference)


def swap_names(a, b):
    return {n: arrays[n.replace(a, "#").replace(b, a).replace("#", b)] for n in arrays}


def rearrange(pattern, transform):  # reorder the entries of the arrays whose names match
    matches = {n: transform(a).reshape(a.shape) for n, a in arrays.items() if re.search(pattern, n)}
    return arrays | matches


# %%
misreadings = {
    "ε = 1e-12 (Hugging Face), not 1e-6": (arrays, {"norm_eps": 1e-12}),
    "exact GELU (timm), not tanh": (arrays, {"gelu": "erf"}),
    "class-token position stored last": (rearrange("pos_emb", lambda a: np.roll(a, 1, 1)), {}),
    "norm1 and norm2 swapped": (swap_names("LayerNorm_0", "LayerNorm_2"), {}),
    "8 heads, not 4": (arrays, {"heads": 8}),
    "patch pixels in column-major order": (
        rearrange("^emb.*kernel", lambda a: a.swapaxes(0, 1)),
        {},
    ),
    "query and key swapped": (swap_names("query", "key"), {}),
    "head axes as (Dh, h), not (h, Dh)": (
        rearrange("que|key|val", lambda a: a.reshape(-1, 16, 4).mT),
        {},
    ),
    "output projection transposed": (rearrange("out/kernel", lambda a: a.reshape(64, 64).T), {}),
}


# %%
def evaluate_misreading(arrays, fields):
    logits = minivit.ViT(dataclasses.replace(c, **fields), naive_load(arrays))(images)
    return abs(logits - reference).max(), (logits.argmax(1) == labels).mean()


results = {name: evaluate_misreading(*misreading) for name, misreading in misreadings.items()}
_, accuracy = evaluate_misreading(arrays, {})
print(f"largest absolute logit {abs(reference).max():.1f}, accuracy {accuracy:.1%}")
for name, (error, accuracy) in results.items():
    print(f"{name:34}  max. logit error {error:.2g}, accuracy {accuracy:.1%}")
(eps_error, _), (gelu_error, gelu_accuracy), *others = results.values()
assert 1e-5 < eps_error < 1e-3 < gelu_error < 0.05
assert gelu_accuracy > 0.85 > max(accuracy for _, accuracy in others)

# %% [markdown]
# Some misreadings leave a model that guesses, others one that might just be badly trained. With
# another GELU or $ε$ it reads as well as before. Accuracy is a blunt tool: compare logits.
#
# ## And back
#
# Reading only moves numbers to other places. So its pullback moves gradients back, and `export`
# does this with any tree of these shapes. With all numbers of the file in one long vector:


# %%
def vit_from_vector(vector):
    chunks = np.split(vector, np.cumsum([a.size for a in arrays.values()])[:-1])
    file_arrays = {n: x.reshape(arrays[n].shape) for n, x in zip(arrays, chunks, strict=True)}
    logits, vit_pullback = vit(images[:1], naive_load(file_arrays), c)

    def pullback(dlogits):
        gradients = weights.export(vit_pullback(dlogits)[1], c, "google")
        return np.concatenate([gradients[name].ravel() for name in arrays])

    return logits, pullback


vector = np.concatenate([array.ravel() for array in arrays.values()])
errors = minivit.gradcheck(vit_from_vector, vector, directions=3)
print(f"{vector.size:,} parameters, worst error {errors.worst:.0e}")
assert errors.worst < 1e-12

# %% [markdown]
# timm has PyTorch's axes, (out, in), and one `qkv` of 3 D rows; Hugging Face has three matrices.
# Neither shows the heads. For the usual widths `load` knows their number; for ours we tell it, and
# tell the GELU. Hugging Face writes both into a `config.json`. The *hybrid* of section 3.1 cuts its
# patches from what a ResNet makes of the image, and so its file has convolutions too:

# %%
timm, hf = file.with_name("timm.npz"), file.with_name("hf")
np.savez(timm, **weights.export(model.params, model.config, "timm"))
model.save(hf, layout="huggingface")  # a folder
for other in (minivit.ViT.load(timm, heads=4, gelu="tanh"), minivit.ViT.load(hf)):
    assert leaf_bytes(other.params) == leaf_bytes(model.params)
    assert abs(other(images) - reference).max() < 1e-4  # the order of summation differs
# one residual unit instead of the 8 of R26
hybrid = minivit.ViT.create("R26+ViT-S/32", image_size=32, depth=1, stem=(1,))
for name, array in weights.export(hybrid.params, hybrid.config, "google").items():
    if re.search("(conv.*|embedding)/kernel", name):
        print(f"{name:34} {array.shape}")

# %% [markdown]
# ## A photograph
#
# Now a real file: `MINIVIT_WEIGHTS=model.npz python chapters/15_the_authors_own_weights.py` reads
# yours, and its classes' names from `imagenet_labels.txt` beside it, if that is there. The page was
# made with a ViT-Ti/16 in timm's names. No file says how photographs are brought to the model. Here
# is Grace Hopper, a portrait that matplotlib has: in timm's way (the middle, colours from -1 to 1),
# all of it `squashed` into a square, in colours from 0 to 1, and in DINO's (ImageNet's mean is 0).

# %%
FILE = os.environ.get("MINIVIT_WEIGHTS")
if FILE:
    pretrained, labels_file = minivit.ViT.load(FILE), Path(FILE).with_name("imagenet_labels.txt")
    r, file_arrays = pretrained.config, weights.files.read_arrays(FILE)[0]
    names = data.read_labels(labels_file, r.classes) if labels_file.exists() else range(r.classes)
    print(*(f"{n} {a.shape}" for n, a in list(file_arrays.items())[:6]), "...", sep="\n")
    print(
        f"{len(file_arrays)} arrays: L = {r.depth}, D = {r.width}, heads: {r.heads}, GELU: {r.gelu}"
    )
else:
    print(
        "MINIVIT_WEIGHTS is not set. Weights can be downloaded from https://huggingface.co/timm or"
    )
    print("https://storage.googleapis.com/vit_models/imagenet21k+imagenet2012/ViT-B_16-224.npz")

# %%
if FILE:
    preprocessing, dino = (
        data.get_preprocessing(n, r.image_size) for n in (r.preprocessing, "dino")
    )
    zero_to_one = dataclasses.replace(preprocessing, mean=(0, 0, 0), std=(1, 1, 1))
    squashed = dataclasses.replace(preprocessing, short_side=None)
    variants = {r.preprocessing: preprocessing, "squashed": squashed}
    variants |= {"[0, 1]": zero_to_one, "dino": dino}
    portrait = data.sample_photograph()
    photos = np.stack([data.read_image(portrait, r.image_size, 3, v) for v in variants.values()])
    logits = pretrained(photos)
    p, _ = layers.softmax(logits)
    for name, change, row in zip(variants, abs(logits - logits[0]).max(1), p, strict=True):
        print(f"{name:10} max. logit change {change:.1f}: {names[row.argmax()]} {row.max():.1%}")

# %%
if FILE:
    A = pretrained.attention(photos[:1])  # (L, 1, h, T, T)
    top = [f"{names[i]} {p[0, i]:.1%}" for i in p[0].argsort()[:-6:-1]]
    print("; ".join(top))
    figure = analysis.plot_model(pretrained, "maps", photos[:1], top[:1])
    analysis.save_figure(figure, "figures/15_the_authors_own_weights.png")
    grey = pretrained.attention(np.zeros_like(photos[:1]))
    for name, attention in {"the portrait": A, "a uniform grey image": grey}.items():
        # attention of the class token in the last layer, (1, h, gh, gw)
        maps = analysis.patch_maps(attention[-1], r.grid)
        fraction = maps[..., [0, 0, -1, -1], [0, -1, 0, -1]].sum() / maps.sum()
        print(
            f"{name}: {fraction:.0%} of the class token's attention to patches in the last layer "
            "falls on the four corner patches"
        )

# %% [markdown]
# ![A portrait; over it the rollout, the gradient-weighted map and the last layer's heads. The cap
# glows, the collar, and the corners](../figures/15_the_authors_own_weights.png)
#
# A right answer proves little here too: with colours from 0 to 1 the model is surer than before. So
# compare logits. Those of the first way go up to 12, and timm's own code, we measured, has the same
# up to 2e-5. And the corners? Heads look there when there is nothing to see.
#
# ## Exercises
#
# **Predict.** In every block the heads stand in reverse order in all four arrays of attention. How
# far off are the logits? And if only query, key and value are reversed?

# %%
qkv = rearrange("(query|key|value)/", lambda a: a[..., ::-1, :])
qkv_out_reversed = {n: a[::-1] if "out/kernel" in n else a for n, a in qkv.items()}
(error_all, accuracy_all), (error_qkv, accuracy_qkv) = (
    evaluate_misreading(reversed_arrays, {}) for reversed_arrays in (qkv_out_reversed, qkv)
)
print("heads reversed in")
print(f"query, key, value, output: max. logit error {error_all:.4f}, accuracy {accuracy_all:.1%}")
print(f"query, key, value only: max. logit error {error_qkv:.4f}, accuracy {accuracy_qkv:.1%}")
assert error_all < 1e-4 < 1 < error_qkv

# %% [markdown]
# Heads have no order: Equation 8 adds up what they say, and only the order of that sum has changed.
#
# **Write.** `dense_general(x, kernel, bias)`: all heads' queries by the authors' kernel as it is,
# $(D, k, D_h)$, and its pullback. `python -m minivit exercise 15 --start` puts a frame into
# `exercises/`; `python -m minivit exercise 15` grades it; `--hint` helps.
#
# **Ablation.** A block: `del model.params["blocks"][i]`. Of the 400 digits, we measured, 12.5%
# are read without the first, 78.5% without the last.
