# %% [markdown]
# # 7. Many heads
#
# Chapter 6 ended with a count: half of the queries gave over 90% of their weight to one token. But
# to know a stroke, a patch may need its left neighbour and its right one, each for itself. How can
# a token ask several questions at once? By Equation 8: $k$ heads ask, their answers are put side by
# side, and one more matrix, $U_{msa} ∈ ℝ^{D × D}$, mixes them.
#
# $$ \mathrm{MSA}(z) = [\mathrm{SA}_1(z); \mathrm{SA}_2(z); ...; \mathrm{SA}_k(z)] U_{msa} $$
#
# (The paper calls the number of heads $k$, like the keys. Which is meant will be clear.)

# %%
import math
from functools import partial

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure
from minivit.layers import attend, linear, self_attention, single_head_attention

# %% [markdown]
# ## What one head cannot say
#
# A head hands back one weighted mean. Let the token to the left have the value 3 and the one to
# the right 5. A head that looks at both alike returns 4, and the same 4 if they change places.
# Other weights give another mixture, but still one number. Two heads keep them apart.

# %%
values = np.array([3.0, 5.0])  # values of the left and the right token
one_head = np.array([[0.5, 0.5]])  # a row of A
two_heads = np.array([[1.0, 0.0], [0.0, 1.0]])  # one row of A per head
print(one_head @ values, one_head @ values[::-1], two_heads @ values, two_heads @ values[::-1])
assert one_head @ values == one_head @ values[::-1] == 4

# %% [markdown]
# ## One head after the other
#
# Each head has its own queries, keys and values of $D_h = D / k$ entries, so that side by side they
# are as wide as a token. All their matrices are columns of one $U_{qkv} ∈ ℝ^{D × 3D}$: first the
# queries of head 1, of head 2, ..., then all keys, then all values.

# %%
D, heads = 6, 2
Dh = D // heads
names = [f"{part}{h + 1}" for part in "qkv" for h in range(heads) for _ in range(Dh)]
print(*names)
columns = np.arange(3 * D).reshape(3, heads, Dh)  # columns[:, h] belong to head h
print(*(names[c] for c in columns[:, 1].ravel()))


# %%
def attention_in_loop(z, qkv, out, heads):
    outputs = []
    for h in range(heads):
        head_columns = columns[:, h].ravel()  # (3 Dh,)
        y, _ = single_head_attention(z, qkv["kernel"][:, head_columns], qkv["bias"][head_columns])
        outputs.append(y)  # (B, T, Dh)
    return np.concatenate(outputs, axis=-1) @ out["kernel"] + out["bias"]


B, T = 2, 5
rng = np.random.default_rng(7)
z = rng.normal(size=(B, T, D))
qkv = {"kernel": rng.normal(size=(D, 3 * D)), "bias": rng.normal(size=3 * D)}
out = {"kernel": rng.normal(size=(D, D)), "bias": rng.normal(size=D)}
y, pullback = self_attention(z, qkv, out, heads)  # (B, T, D)
assert abs(y - attention_in_loop(z, qkv, out, heads)).max() < 1e-13

# %% [markdown]
# ## All at once
#
# The library has no loop over the heads. It makes all of $[q, k, v]$ by one product; `reshape`
# gives the heads an axis of their own, and `transpose` puts it next to the batch. `attend` works on
# the last two axes and takes those before them as they come: to it, $k$ heads are $k$ times as many
# images.

# %%
packed, _ = linear(z, **qkv)  # (B, T, 3 D)
q, k, v = packed.reshape(B, T, 3, heads, Dh).transpose(2, 0, 3, 1, 4)
outputs, _ = attend(q / math.sqrt(Dh), k, v)  # like q, k and v, (B, h, T, Dh)
joined = outputs.swapaxes(1, 2).reshape(B, T, D)  # the heads side by side
assert abs(joined @ out["kernel"] + out["bias"] - y).max() < 1e-13

# %% [markdown]
# **What do more heads cost?** Count the multiplications for one image. A head's scores take
# $T · T · D_h$, so $k$ heads of $D_h = D / k$ take $T · T · D$, however many they are; the weighted
# means take the same. In a layer of ViT-B/16, where $T = 197$ and $D = 768$, in millions:


# %%
def multiplications(T, D, heads):
    Dh = D // heads
    return {
        "z U_qkv": T * D * 3 * D,
        "q k^T": heads * T * T * Dh,
        "A v": heads * T * T * Dh,
        "[...] U_msa": T * D * D,
    }


for name, count in multiplications(T=197, D=768, heads=12).items():
    print(f"{name:12} {count / 1e6:.0f}")
for n in (1, 2, 3, 64, 768):
    assert multiplications(197, 768, n) == multiplications(197, 768, 12)

# %% [markdown]
# What does grow is the number of probabilities, $k · T · T$: more exponentials and more memory.
#
# **What does $U_{msa}$ do?** Head $h$ stands in $D_h$ columns of the joined answers, so it meets
# $D_h$ rows of $U_{msa}$ only. The product is a sum over heads: each head's answer, put by its own
# rows wherever in the token it is of use. Two heads can write to the same entries.

# %%
rows = out["kernel"].reshape(heads, Dh, D)  # (h, Dh, D), the rows of each head
terms = [outputs[:, h] @ rows[h] for h in range(heads)]  # each (B, T, D)
assert abs(sum(terms) + out["bias"] - y).max() < 1e-13

# %% [markdown]
# ## The way back
#
# There is nothing new in it. Equation 8 is a `linear` on the joined answers $Y$, bias included:
#
# $$ dY = dy · U_{msa}^T, \qquad dU_{msa} = Y^T · dy $$
#
# Cut $dY$ where the answers were joined: each head gets the gradient of its own answer and hands it
# to its own pullback, that of chapter 6. All heads read the same $z$, so their gradients of $z$ are
# added. Each column of $U_{qkv}$ belongs to one head, so theirs are put side by side again.

# %%
dy = rng.normal(size=y.shape)  # (B, T, D)
dY = dy @ out["kernel"].T  # (B, T, D)
dz, dkernel = np.zeros_like(z), np.zeros_like(qkv["kernel"])
for h in range(heads):
    head_columns = columns[:, h].ravel()
    _, head_back = single_head_attention(
        z, qkv["kernel"][:, head_columns], qkv["bias"][head_columns]
    )
    dz_h, dhead = head_back(dY[..., h * Dh : (h + 1) * Dh])
    dz += dz_h
    dkernel[:, head_columns] = dhead["kernel"]
dz_library, dparams = pullback(dy)
assert abs(dz_library - dz).max() < 1e-13
assert abs(dparams["out"]["kernel"] - joined.reshape(-1, D).T @ dy.reshape(-1, D)).max() < 1e-13
assert abs(dparams["qkv"]["kernel"] - dkernel).max() < 1e-13
errors = minivit.gradcheck(partial(self_attention, heads=heads), z, qkv, out)
assert errors.worst < 1e-12

# %% [markdown]
# ## Four heads look at a digit
#
# Chapter 6's model with $U_{msa}$ and $k = 4$ heads of $D_h = 8$, beside the same with one head of
# $D_h = 32$. Both have the same number of parameters and of multiplications.

# %%
from minivit.layers import add_positions, mean_pool, patch_embedding
from minivit.training import train_sgd

digits = minivit.data.load_digits()
recipe = {"epochs": 20, "batch_size": 64, "learning_rate": 0.1, "seed": 0}


# %%
def model(images, params, heads, watch=None):
    x, embedding_back = patch_embedding(images, **params["patch_embedding"], patch_size=2)
    z, positions_back = add_positions(x, **params["positions"])  # (B, 16, 32)
    y, attention_back = self_attention(z, **params["attention"], heads=heads, watch=watch)
    pooled, pool_back = mean_pool(y)  # (B, 32)
    logits, head_back = linear(pooled, **params["head"])  # (B, 10)

    def pullback(dlogits):
        dpooled, dhead = head_back(dlogits)
        dz, dattention = attention_back(pool_back(dpooled))
        dx, dpositions = positions_back(dz)
        dimages, dembedding = embedding_back(dx)
        return dimages, {
            "patch_embedding": dembedding,
            "positions": dpositions,
            "attention": dattention,
            "head": dhead,
        }

    return logits, pullback


# %%
def create(seed=0):
    rng = np.random.default_rng(seed)

    def layer(fan_in, fan_out):
        kernel = rng.normal(size=(fan_in, fan_out)) / math.sqrt(fan_in)
        return {"kernel": kernel.astype("float32"), "bias": np.zeros(fan_out, "float32")}

    return {
        "patch_embedding": layer(4, 32),
        "positions": {"table": rng.normal(size=(16, 32)).astype("float32")},
        "attention": {"qkv": layer(32, 96), "out": layer(32, 32)},
        "head": {"kernel": np.zeros((32, 10), "float32"), "bias": np.zeros(10, "float32")},
    }


# %%
accuracy = {}
for heads in (1, 4):
    params = create()
    accuracy[heads] = train_sgd(partial(model, heads=heads), params, digits, **recipe)[-1]
    print(f"{heads} heads: held-out accuracy {accuracy[heads]:.1%}")
assert accuracy[4] > 0.84

# %% [markdown]
# Where does one patch look, with each head? In each held-out digit, take the patch that gets the
# largest weight in its row of $A$. The one that wins most often is the head's favourite; here is in
# how many of all digits it wins. The figure then shows four digits, and the asking patch framed.

# %%
recorded, i = {}, 5  # the query: row 2, column 2
model(digits.held_out_images, params, heads=4, watch=recorded.__setitem__)
A = recorded["probabilities"][:, :, i]  # (360, h, T), row i of each A
fractions = [np.bincount(A[:, h].argmax(-1)).max() / len(A) for h in range(4)]
print("images with the most frequent argmax, per head:", *(f"~{s:.0%}" for s in fractions))

# %%
chosen = [np.flatnonzero(digits.held_out_labels == c)[1] for c in (0, 2, 3, 7)]
images, maps = digits.held_out_images[chosen], A[chosen].reshape(4, 4, 4, 4)
figure, axes = plt.subplots(4, 5, figsize=(8, 6.6), layout="constrained")
for row, image, head_maps in zip(axes, images, maps, strict=True):
    row[0].imshow(image[..., 0], cmap="gray")
    row[0].add_patch(plt.Rectangle((1.5, 1.5), 2, 2, fill=False, ec="C1", lw=3))
    for h in range(4):
        shown = row[1 + h].imshow(head_maps[h], cmap="cividis", vmin=0, vmax=1)
        axes[0, 1 + h].set_title(f"head {h + 1}")
plt.setp(axes.ravel(), xticks=[], yticks=[])
figure.colorbar(shown, ax=axes, label="attention weight", shrink=0.6)
save_figure(figure, "figures/07_many_heads.png")

# %% [markdown]
# ![Four digits with one patch framed, and where that patch looks with each of four heads: in every
# row, at four different patches.](../figures/07_many_heads.png)
#
# Each head still points, but to a place of its own. Head 1 points at its favourite in about 81% of
# all digits, head 3 in 87%, whatever they show: they ask for a place. Head 4 does so in only 30%;
# it asks for what stands there, too. Nothing but the random start told the heads apart.
#
# ## Exercises
#
# **Predict.** Set the rows of $U_{msa}$ that belong to head 2 to zero. Which gradients become zero:
# those of its columns of $U_{qkv}$, those of its rows of $U_{msa}$, both, or neither?

# %%
ablated = {"kernel": out["kernel"].copy(), "bias": out["bias"]}
ablated["kernel"][Dh:] = 0  # head 2 of 2
_, ablated_back = self_attention(z, qkv, ablated, heads=2)
_, dparams = ablated_back(dy)
dqkv_head2, dmsa_head2 = dparams["qkv"]["kernel"][:, columns[:, 1]], dparams["out"]["kernel"][Dh:]
print(f"gradient of head 2: U_qkv {abs(dqkv_head2).max():.0f}, U_msa {abs(dmsa_head2).max():.0f}")
assert abs(dqkv_head2).max() == 0 < abs(dmsa_head2).max()

# %% [markdown]
# The first only. Nobody hears head 2, so nothing tells its queries, keys and values what to change.
# But its answers are there, and the gradient of $U_{msa}$ sees them: one step, and it is heard.
#
# **Write.** `multi_query_attention(q, k, v)`: the $k$ heads of queries share one head of keys and
# values (Shazeer, 2019). A language model then has $k$ times fewer of them to keep in memory.
# `python -m minivit exercise 7 --start` puts a frame into `exercises/`;
# `python -m minivit exercise 7` grades it; `--hint` helps.
#
# **Ablation.** Train with other numbers of heads. With the seeds 0, 1 and 2 of `create` and
# `train_sgd`, one head gave 78.1, 88.1 and 85.6%; 2 heads 83.3, 82.8 and 91.7%; 4 heads 94.4, 88.3
# and 93.3%; 8 heads 93.3, 95.3 and 95.0%; and 32 heads of one number each 96.7, 95.0 and 96.7%. On
# these digits more was better, on average, to the end. In ViT-B and ViT-L $D_h$ is 64, in ViT-H 80.
