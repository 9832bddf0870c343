# %% [markdown]
# # 1. An image as a sequence of patches
#
# A transformer reads a sequence of vectors, its *tokens*. An image is a grid of pixels: H rows, W
# columns, C numbers for each pixel (one for grey, three for colour). What shall a token be?
#
# The paper's answer (section 3.1): cut the image into squares of P by P pixels, its *patches*, and
# write the numbers of each patch in one row. The image $x$ becomes a table $x_p$,
#
# $$ x ∈ ℝ^{H × W × C}, \qquad x_p ∈ ℝ^{N × P^2 C}, \qquad N = H W / P^2 $$
#
# Why squares, and not the pixels themselves? This chapter cuts, sews together again, and counts.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure
from minivit.layers import patchify, unpatchify

digits = minivit.data.load_digits()
images = digits.images  # (B, H, W, C): B images
print(images.shape, digits.held_out_images.shape, images.min(), images.max())

# %% [markdown]
# These are the images of the whole book: handwritten digits of 8 x 8 pixels, from the UCI Machine
# Learning Repository. 1,437 are for training; 360 are *held out*: no model is trained on them, and
# every model is judged by them. The ink of a pixel was counted from 0 to 16; here it is scaled to
# go from -1 to 1.
#
# Now the naive way to patches, in loops: patch after patch, from left to right and from top to
# bottom; inside a patch, its pixels in the same order.


# %%
def patchify_by_hand(images, P):
    B, H, W, C = images.shape
    patches = np.zeros((B, H * W // P**2, P * P * C), images.dtype)
    for b in range(B):
        n = 0
        for top in range(0, H, P):
            for left in range(0, W, P):
                square = images[b, top : top + P, left : left + P]  # (P, P, C)
                patches[b, n] = square.ravel()
                n += 1
    return patches


patches, patchify_back = patchify(images, 2)  # (B, N, P P C)
print(patches.shape)
assert np.array_equal(patches, patchify_by_hand(images, 2))

# %% [markdown]
# ## Without a loop
#
# The library does the same in three steps. A reshape splits the rows into (which patch, which row
# inside it), and the columns likewise. A swap of two axes brings "which patch" to the front. A
# second reshape makes rows of it. Only the last step moves a number in memory.

# %%
B, H, W, C = images.shape
P = 2
grid = images.reshape(B, H // P, P, W // P, P, C)  # (B, rows, P, columns, P, C)
grid = grid.swapaxes(2, 3)  # (B, rows, columns, P, P, C)
table = grid.reshape(B, -1, P * P * C)  # (B, N, P P C)
assert np.array_equal(table, patches)

# %% [markdown]
# ## The way back
#
# `patchify` computes nothing. Each number of an image appears in exactly one place of the table,
# unchanged. Let $x_i$ be the image's number $i$, counted along its rows, and $r(i)$ the place in
# the table $y$ where it ends up: $y_{r(i)} = x_i$. The loss reacts to $x_i$ through that one
# output, so the pullback is
#
# $$ dx_i = dy_{r(i)} $$
#
# Each gradient goes back to the place its number came from. In other words, the pullback of cutting
# is folding back, and folding back has a name of its own, `unpatchify`.

# %%
dpatches = np.random.default_rng(1).normal(size=patches.shape)
dimages = patchify_back(dpatches)
assert np.array_equal(dimages, unpatchify(dpatches, 2, height=8, width=8)[0])
assert np.array_equal(unpatchify(patches, 2, height=8, width=8)[0], images)
print(minivit.list_retained(patchify_back))
assert minivit.list_retained(patchify_back).bytes == 0

# %% [markdown]
# The pullback keeps no array. All it must know is P, H and W. And the other way round, the pullback
# of folding back is cutting. The checker of chapter 0 moves every number of a small image, one at a
# time:

# %%
small = np.random.default_rng(2).normal(size=(1, 4, 6, 3))
errors = minivit.gradcheck(patchify, small, 2)
back_errors = minivit.gradcheck(unpatchify, patchify(small, 2)[0], 2, 4, 6)
assert errors.worst < 1e-12
assert back_errors.worst < 1e-12

# %% [markdown]
# ## Why not pixels?
#
# With P = 1, every pixel would be a token. What forbids it is *attention*, the part of the model in
# which each token looks at all others. Chapters 5 and 6 derive it. Here it is enough to count:
# every token is compared with every token, itself included, and each comparison gives one number,
# a *score*. That makes $N^2$ scores, for one image, in one *head*. A head compares all tokens once;
# ViT-Base, the smallest model of the paper, has 12 of them in each of its 12 layers. A float32 has
# 4 bytes:


# %%
def score_bytes(side, P):
    N = (side // P) ** 2
    return 4 * N * N


for side, P in (224, 1), (224, 2), (32, 2), (224, 16), (8, 2):
    N = (side // P) ** 2
    print(f"{side:3} px, P = {P:2}: {N:6,} tokens, {score_bytes(side, P):14,} bytes of scores")
assert score_bytes(224, 1) == 50_176**2 * 4 == 10_070_523_904

# %% [markdown]
# At 224 x 224, the resolution of the paper's pre-training, pixels would need 10 GB for the scores
# of one head, for one image. Patches of 2 x 2 had been tried before: Cordonnier, Loukas and Jaggi
# (2020) cut images of 32 x 32 pixels into 256 of them, at a quarter of a megabyte a head. At 224
# pixels the same patches cost 629 MB a head. The patches of the paper's title, 16 x 16, bring that
# to 154 kB: the image has become 196 "words".
#
# Time follows, for each score has to be computed and used. It was measured once, on one core of one
# machine, by `python chapters/measured/attention_cost.py`: one head, forward only. Below P = 4 it
# is not measured but extrapolated: the time at P = 4, times the growth of $N^2$.

# %%
measured = np.genfromtxt("chapters/measured/attention_cost.csv", delimiter=",", names=True)
sides, ms = measured["patch_side"], measured["milliseconds"]
assert sides[0] == 4
extrapolated_sides = np.array([1, 2, 4])
extrapolated_ms = ms[0] * (4 / extrapolated_sides) ** 4
print(
    f"P = 16: {ms[sides == 16][0]:.2f} ms; P = 4: {ms[0]:.0f} ms; "
    f"P = 1, extrapolated: {extrapolated_ms[0] / 1000:.0f} s"
)

# %%
figure = plt.figure(figsize=(9, 5.6), layout="constrained")
axes = figure.subplot_mosaic(
    [["digit", "strip", "strip"], ["bytes", "bytes", "time"]],
    height_ratios=[1, 1.7],
    width_ratios=[1, 1, 2],
)
axes["digit"].imshow(images[5, :, :, 0], cmap="gray")
strip = np.full((2, 3 * 16 + 1), np.nan)
for n in range(16):
    strip[:, 3 * n + 1 : 3 * n + 3] = patches[5, n].reshape(2, 2)
    position = (2 * (n % 4) - 0.3, 2 * (n // 4) - 0.35)
    axes["digit"].annotate(n + 1, position, va="top", size=8, bbox={"fc": "w", "lw": 0, "pad": 1})
axes["digit"].set(xticks=[1.5, 3.5, 5.5], xticklabels=[], yticks=[1.5, 3.5, 5.5], yticklabels=[])
axes["digit"].grid(color="C1", lw=2)
axes["strip"].imshow(strip, cmap="gray")
axes["strip"].set(xticks=3 * np.arange(16) + 1.5, xticklabels=range(1, 17), yticks=[], fc="C1")
axes["strip"].set(xlabel="the same 16 patches as a sequence")

# %%
P = np.array([1, 2, 4, 7, 8, 14, 16, 28, 32, 56])
axes["bytes"].loglog(P, score_bytes(224, P), "C0o-")
for side, text in (1, "pixels: 10 GB"), (2, "2 x 2: 629 MB"), (16, "16 x 16: 154 kB"):
    axes["bytes"].annotate(f"  {text}", (side, score_bytes(224, side)), va="bottom")
axes["bytes"].set(ylabel="scores of one head (bytes)", ylim=(4e2, 8e10))
axes["time"].loglog(extrapolated_sides, extrapolated_ms, "C1s--", mfc="w", label="extrapolated")
axes["time"].loglog(sides, ms, "C0o-", label="measured")
axes["time"].legend()
axes["time"].set(ylabel="time of one head (ms)")
for name in ("bytes", "time"):
    axes[name].set(xlabel="patch side P (pixels) of an image of 224 px")
    axes[name].set_xticks([1, 2, 4, 8, 16, 32, 56], [1, 2, 4, 8, 16, 32, 56])
    axes[name].minorticks_off()
save_figure(figure, "figures/01_patches.png")

# %% [markdown]
# ![A digit cut into 16 numbered patches; the same patches as a sequence; below, the memory of one
# head's scores and the time of one head, which fall with the fourth power of the patch
# side](../figures/01_patches.png)
#
# Halving P halves the squares both ways: 4 times the tokens, 16 times the scores. (On the right the
# curve ends flat: for few tokens, what remains is the constant cost of calling NumPy.)
#
# So large patches are cheap. Is anything lost with them? Nothing yet: every number of the image is
# still there, in another order. But a pixel's place in its patch is now only a column of the table,
# and a patch's place in the image only a row number. Chapters 2 and 3 show what becomes of each.

# %% [markdown]
# ## Exercises
#
# **Predict.** The digits have 64 numbers. For P = 4, 2, 1: how many numbers does the whole sequence
# have, how many tokens, how many scores?

# %%
for P in (4, 2, 1):
    table, _ = patchify(images[:1], P)
    N = table.shape[1]
    print(f"P = {P}: {table.size} values, {N:2} tokens, {N * N:4} scores")
    assert (table.size, N) == (64, (8 // P) ** 2)

# %% [markdown]
# There are always 64 numbers. But halve P, and they make 4 times the tokens, 16 times the scores.
#
# **Write.** `overlapping_patches(images, patch_size, stride)`: squares of `patch_size`, one every
# `stride` pixels, so that neighbours share a border. A pixel may now lie in several patches; its
# gradients add up, as in chapter 0. `python -m minivit exercise 1 --start` puts a frame into
# `exercises/`; `python -m minivit exercise 1` grades it; `--hint` helps.
#
# **Ablation.** Leave out the line with `swapaxes`. The assert below it fails: of 64 numbers, 48
# stand elsewhere, and the first "patch" is a strip of four pixels in one row. Yet a version of
# `patchify` written so, with its own way back, passes `gradcheck` with an error of 1e-16: it proves
# that a pullback belongs to its function, not that the function is the one you meant.
