# %% [markdown]
# # 13. Looking inside
#
# A trained ViT names a digit. What did it look at? The paper has pictures: where the attention
# flows (Figures 6 and 14), how far each head looks (7 and 11), which places the positions hold to
# be alike (7 and 10), what the embedding looks for (7). This chapter makes them all. And as
# pictures of attention are easily believed, it asks each map a question with a known answer.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit import analysis, data
from minivit.analysis import attention_rollout, patch_maps
from minivit.training import evaluate, fit_logistic_regression

# %% [markdown]
# ## A task with a known answer
#
# The 8 x 8 digits will not do. A linear model on their raw pixels already reads 97.5% of them, and
# a grid of 4 x 4 patches is a poor map. So one digit is put at a random place in an image of
# 24 x 24, among scraps cut out of other digits. To name it one must find it first, and a linear
# model, with one weight a pixel, cannot: trained on 100,000 such images it reads 11.5%. And where
# the digit lies, its *box*, is known. The ViT comes with minivit; `python -m minivit train --data
# scattered` made it. It has a grid of 6 x 6 patches, a class token, four blocks and four heads.

# %%
scattered = data.load_scattered(n=5000)  # a subset of the training images
images, labels = scattered.held_out_images, scattered.held_out_labels
boxes = scattered.held_out_boxes  # (B, 4): top, left, bottom, right
model = minivit.ViT.load(data.SCATTERED_MODEL)
grid, P = model.config.grid, model.config.patch_size
accuracy = evaluate(model, images, labels).accuracy
baseline = fit_logistic_regression(scattered, steps=50)
print(f"held-out accuracy: ViT {accuracy:.2%}, linear model (5,000 training images) {baseline:.0%}")
assert accuracy > 0.85 > 0.25 > baseline

# %% [markdown]
# ## One head at a time
#
# Chapter 6 called the probabilities $A$: row $i$ says from which tokens token $i$ takes. The answer
# is read off the class token, so take its row, row 0. Without the class token's own entry it is a
# map over the patches, one for each layer, image and head.

# %%
A = model.attention(images)  # (L, B, h, T, T)
L, _, heads, T, _ = A.shape
maps = patch_maps(A, grid)  # (L, B, h, 6, 6)
assert np.array_equal(maps[2, 5, 1], A[2, 5, 1, 0, 1:].reshape(grid))

# %% [markdown]
# ## Attention rollout
#
# One layer's map tells what that layer takes from its own input; but a token of layer 3 is itself
# a mixture of what it took before. Abnar and Zuidema (2020), whom the paper cites, follow the flow.
# Take the mean $A_l$ of a layer's heads. The residual of Equation 2 lets each token pass unchanged
# as well: let half of it pass, with $I$ for the identity. Then multiply, each layer from the left:
#
# $$ R_l = (A_l + I) / 2 · R_{l-1}, \qquad R_0 = I $$
#
# The rows of $A_l$ and of $I$ sum to 1, and so do those of the product. Entry $j$ of a row says how
# much of token $j$, as it entered the first layer, has arrived; row 0 gives the map.


# %%
def naive_rollout(A):
    R = np.eye(T)
    for A_l in A.mean(1):  # (T, T), mean over the heads
        rollout = np.zeros((T, T))
        for i in range(T):
            for j in range(T):
                rollout[i, j] = (sum(A_l[i, m] * R[m, j] for m in range(T)) + R[i, j]) / 2
        R = rollout
    return R


rollout = attention_rollout(A)  # (B, T, T)
one = A[:, :1].astype("float64")  # one image
assert abs(attention_rollout(one)[0] - naive_rollout(one[:, 0])).max() < 1e-13
assert abs(rollout.sum(-1) - 1).max() < 1e-5

# %% [markdown]
# ## What raises the answer
#
# Attention tells where a head looks, not whether it matters. The backward pass knows: on its way it
# computes $dA = dy · v^T$ (chapter 6), how strongly what was sent back reacts to each probability.
# `attention_gradients` sends back 1 for the logit of the model's answer, 0 for the others, and
# keeps what `watch` is shown. $A · dA$, entry by entry, is about what the logit would lose if that
# one probability fell to 0: where it is positive, the look spoke for the answer. Chefer et al.
# (2021) follow these looks. Rollout's factor becomes $I + Ā_l$, with $h$ for the heads:
#
# $$ Ā_l = \mathrm{mean}_h(\mathrm{max}(A · dA, 0)), \qquad R_l = R_{l-1} + Ā_l R_{l-1} $$
#
# The library returns $R_L - I$: what a token owes to itself for being itself is left out.

# %%
A_few, dA = analysis.attention_gradients(model, images[:200])  # (L, 200, h, T, T) each
weighted = analysis.gradient_weighted_rollout(A_few, dA)  # (200, T, T)
R = np.eye(T)
for A_l, dA_l in zip(A_few[:, 7], dA[:, 7], strict=True):  # (h, T, T), one image
    R = R + np.maximum(A_l * dA_l, 0).mean(0) @ R
assert abs(weighted[7] - (R - np.eye(T))).max() < 1e-5

# %% [markdown]
# ## The question with a known answer
#
# How much of a map's mass, the sum of its entries, lies inside the box? (A patch counts by the part
# of it that is inside.) A map without any idea has as much there as the box takes of the image, 64
# of 576 pixels; one that only tells ink from paper, as much as the box has of the ink:

# %%
fractions = analysis.localisation_scores(model, images, boxes)  # mean over all held-out images
patches, patchify_back = minivit.layers.patchify(images, P)  # (B, 36, 16), with background -1
ink = (patches + 1).sum(-1).reshape(-1, *grid)  # (B, 6, 6)
fractions["ink"] = analysis.fraction_in_box(ink, boxes, P).mean()
for name, fraction in fractions.items():
    print(
        f"{name:18} {fraction:.1%} inside the box,",
        f"{fraction / fractions['chance']:.1f} times chance",
    )
inside = [analysis.fraction_in_box(patch_maps(A_l.mean(1), grid), boxes, P).mean() for A_l in A]
print("per layer         ", *(f"{fraction:.0%}" for fraction in inside))
assert 2 * fractions["chance"] < fractions["rollout"] < min(inside)
assert fractions["rollout"] < fractions["ink"] < fractions["gradient-weighted"] - 0.1

# %% [markdown]
# The maps weighted by the gradient point at the digit. ("Gradient sum" is $Σ_l Ā_l$, without the
# product through the layers.) Rollout, the paper's map, has more than chance in the box, but less
# than plain ink has, and less than any single layer (the mean of its heads): each product mixes in
# what the patches took elsewhere. Its brightest patches may be right all the same: see *Predict*.
#
# ## How far does a head look?
#
# The mean attention distance (Figure 7, right) is to a head what the size of its filter is to a
# convolution. With $D_{ij}$ for the distance between the centres of patches $i$ and $j$ in pixels,
# it is the mean over patches $i$ and images of $Σ_j A_{ij} D_{ij}$. The class token counts as 0.


# %%
def naive_distance(A, gw, P):
    T = len(A)  # one head, one image
    total = 0
    for i in range(1, T):
        for j in range(1, T):
            (r, c), (s, d) = divmod(i - 1, gw), divmod(j - 1, gw)  # row, column
            total += A[i, j] * P * math.hypot(r - s, c - d)
    return total / (T - 1)


distances = analysis.mean_attention_distance(A, grid, P)  # (L, h), in pixels
one = analysis.mean_attention_distance(A[:, :1], grid, P)[3, 2]
assert abs(one - naive_distance(A[3, 0, 2].astype("float64"), grid[1], P)) < 1e-4


# %%
def uniform_attention_distance(T, gh, gw, P):
    A = np.full((1, 1, 1, T, T), 1 / T)
    return analysis.mean_attention_distance(A, (gh, gw), P)[0, 0]


uniform, paper = (
    uniform_attention_distance(T, *grid, P),
    uniform_attention_distance(14 * 14, 14, 14, 16),
)
print(f"attention distance of the heads: {distances.min():.1f} to {distances.max():.1f} pixels")
print(f"uniform attention: {uniform:.1f} pixels here, {paper:.1f} for 14 x 14 patches of 16 pixels")
assert distances.min() > 0.75 * uniform
assert abs(paper - 116.492) < 0.01

# %% [markdown]
# The last is nearly the top of the paper's figure, about 120 pixels, which its later layers come
# near. (No head must look everywhere for that: one that picks a single patch, anywhere, has the
# same mean.)
#
# ## Positions and filters
#
# For each place, the cosine between its position and all others: are neighbours alike, though
# nobody told the model which they are? And of the columns of $E$, its filters, less their mean, the
# *principal components*, by a singular value decomposition: the patterns in which they differ most.

# %%
similarity = analysis.position_similarity(model.params["positions"]["table"], grid)
E = model.params["patch_embedding"]["kernel"]  # (16, D)
filters, _ = analysis.patch_filters(E, P, count=14)  # (14, P, P, 1), as images
rows, columns = np.indices(grid).reshape(2, 36)
steps = abs(rows[:, None] - rows) + abs(columns[:, None] - columns)  # (36, 36), in patches
near, far = (similarity.reshape(36, 36)[chosen].mean() for chosen in (steps == 1, steps > 4))
print(f"cosine similarity: neighbours {near:.2f}, distant positions {far:.2f}")
assert near > far + 0.1


# %%
def show(axis, image, box, **options):
    axis.imshow(image, extent=(0, 24, 24, 0), **options)
    axis.plot(box[[1, 3, 3, 1, 1]], box[[0, 0, 2, 2, 0]], "C1", lw=2)
    axis.set(xticks=[], yticks=[], xlim=(0, 24), ylim=(24, 0))


figure = plt.figure(figsize=(9, 8), layout="constrained")
upper, lower = figure.subfigures(2, 1, height_ratios=[1.45, 1])
rows = upper.subplots(3, 6)
titles = ["image", "rollout", "gradient-weighted", *(f"layer {L}, head {h + 1}" for h in range(3))]
for b, row in enumerate(rows):
    show(row[0], images[b, :, :, 0], boxes[b], cmap="gray")
    attention_maps = [patch_maps(rollout[b], grid), patch_maps(weighted[b], grid), *maps[-1, b, :3]]
    for axis, one in zip(row[1:], attention_maps, strict=True):
        show(axis, one, boxes[b], cmap="viridis", vmin=0)
for axis, name in zip(rows[0], titles, strict=True):
    axis.set_title(name, fontsize=10)

# %%
left, middle, right = lower.subplots(1, 3, width_ratios=[1.3, 1.3, 1])
tiles = np.pad(filters[..., 0], ((0, 0), (0, 1), (0, 1)), constant_values=1)  # (14, 5, 5)
left.imshow(tiles.reshape(2, 7, 5, 5).swapaxes(1, 2).reshape(10, 35), cmap="gray")
left.set(xticks=[], yticks=[], xlabel="principal components of the filters")
tiles = np.pad(similarity, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
shown = middle.imshow(tiles.swapaxes(1, 2).reshape(42, 42), cmap="PuOr", vmin=-1, vmax=1)
middle.set(xticks=[], yticks=[], xlabel="similarity of each position to all others")
lower.colorbar(shown, ax=middle, shrink=0.8, ticks=[-1, 0, 1])
for layer in range(L):
    right.plot([layer + 1] * heads, distances[layer], "o", color="C0", mec="w", ms=8)
right.axhline(uniform, color="0.4", ls="--")
right.set(xlabel="layer", xticks=range(1, L + 1), ylim=(0, 1.25 * uniform))
right.set_ylabel("mean attention distance (pixels)")
analysis.save_figure(figure, "figures/13_looking_inside.png")

# %% [markdown]
# ![Above, three images with the digit's box, rollout, the gradient-weighted map and three heads:
# the brightest patch lies in the box, but for head 2's. Below, filters, positions, distances
# (dashed: everywhere alike).](../figures/13_looking_inside.png)
#
# Each small square in the middle is the map of one place: those inside are alike, near or far, and
# those along one edge are. And every head looks far, for here a digit may be anywhere.
#
# ## Exercises
#
# **Predict.** Paint the four patches that a map marks highest black, and let the model read what is
# left. How many of 200 images does it still read, and how many without four random patches of ink?


# %%
def accuracy_without(maps):
    """Return the accuracy without the four largest patches of each map (200, 6, 6)."""
    erased = maps.reshape(200, 36).argsort(1)[:, -4:]  # (200, 4)
    remaining = patches[:200].copy()  # (200, 36, 16)
    remaining[np.arange(200)[:, None], erased] = -1
    return evaluate(model, patchify_back(remaining), labels[:200]).accuracy


random = np.random.default_rng(0).random((200, 6, 6)) + (ink[:200] > 0)  # patches with ink first
by_rollout, by_gradient = (patch_maps(one, grid) for one in (rollout[:200], weighted))
accuracies = [accuracy_without(one) for one in (random, by_rollout, by_gradient)]
print(
    "accuracy after erasing: random {:.0%}, rollout {:.0%}, gradient-weighted {:.0%}".format(
        *accuracies
    )
)
assert max(accuracies[1:]) < 0.3 < 0.6 < accuracies[0]

# %% [markdown]
# The answer hangs on the few patches that the maps mark highest, and rollout's are as good as the
# gradient's. (`patchify_back`, the pullback of `patchify`, puts patches together again; see
# chapter 1.)
#
# **Write.** `attention_entropy(A)`: the mean over queries of $-Σ_j A_{ij} · \mathrm{log} A_{ij}$,
# for each head, and its pullback. It is 0 for a head that looks at one token only, and the
# logarithm of $T$ for one that looks everywhere. `python -m minivit exercise 13 --start` puts a
# frame into `exercises/`; `python -m minivit exercise 13` grades it; `--hint` helps.
#
# **Ablation.** Take layers from the rollout: with only the first, `attention_rollout(A[:1])`, we
# measured
# 43% of the mass in the boxes, with two 35%, with three 30%, where all four have 28%.
