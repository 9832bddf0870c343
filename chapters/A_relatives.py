# %% [markdown]
# # A. Other positions, other attentions
#
# The ViT of this book learns one vector for each place (chapter 3), and lets every token look at
# every other (chapter 6). Both were choices. This appendix tries others: positions that are waves,
# positions that are offsets, and attention that looks only along rows and columns, or only within a
# window. For each the question is the same: what is gained?

# %%
import csv
import math

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure
from minivit.layers import add_positions_sincos2d, attend, relative_positions, self_attention

# %% [markdown]
# ## Positions that are waves
#
# Nothing has to be learned to tell places apart. Take $D / 4$ frequencies $ω_j$, from fast to slow,
# and give the patch in column $x$ and row $y$ the sines and cosines of all $x ω_j$ and all $y ω_j$.
# Each of the four kinds fills a quarter of the width:
#
# $$ [\mathrm{sin}(xω), \mathrm{cos}(xω), \mathrm{sin}(yω), \mathrm{cos}(yω)] $$
#
# $$ ω_j = 10000^{-j / (D / 4 - 1)}, \qquad j = 0, ..., D / 4 - 1 $$
#
# This is how the authors' later code does it (big_vision, after MoCo v3). The paper's own models
# learn theirs. In loops:


# %%
def naive_waves(gh, gw, D):
    table = []
    for y in range(gh):
        for x in range(gw):
            omegas = [10000 ** (-j / (D // 4 - 1)) for j in range(D // 4)]
            waves = [
                f(position * w) for position in (x, y) for f in (math.sin, math.cos) for w in omegas
            ]
            table.append(waves)
    return np.array(table)  # (N, D)


N, D = 12, 16  # a grid of 3 rows and 4 columns
table = add_positions_sincos2d(np.zeros((1, N, D)), (3, 4))[0][0]
assert abs(table - naive_waves(3, 4, D)).max() < 1e-13
errors = minivit.gradcheck(add_positions_sincos2d, np.ones((2, N, D)), (3, 4))
assert errors.worst < 1e-12

# %% [markdown]
# What do waves know that a table of random vectors does not? Take the dot product of the vectors of
# two places. As $\mathrm{sin}(a) · \mathrm{sin}(b) + \mathrm{cos}(a) · \mathrm{cos}(b)$ is
# $\mathrm{cos}(a - b)$, it is a sum of cosines of $(x - x') ω_j$ and $(y - y') ω_j$. Only the
# *offset* from one place to the other is left. If both move alike, nothing changes:

# %%
grid = table.reshape(3, 4, D)
here = grid[0, 0] @ grid[1, 2]  # down 1, right 2
there = grid[1, 1] @ grid[2, 3]  # the same offset at another position
elsewhere = grid[0, 0] @ grid[2, 2]  # another offset
print(f"{here:.3f} {there:.3f} {elsewhere:.3f}")
assert abs(here - there) < 1e-13 < abs(here - elsewhere)

# %% [markdown]
# ## Positions that are offsets
#
# If the offset is what matters, why not learn a vector for each offset? Appendix D.4 of the paper
# adds to the score of query $i$ and key $j$ a second product: the query with a learned vector $r$
# for the offset $i - j$. In the *raster*, the patches in reading order, there are $2N - 1$ offsets,
# from $1 - N$ to $N - 1$:
#
# $$ A = \mathrm{softmax}(q k^T / \sqrt{D_h} + b), \qquad b_{ij} = q_i · r_{i - j} / \sqrt{D_h} $$
#
# Nothing is added to the tokens. The paper leaves open how heads share the vectors and what the
# class token's offsets are. Here each head has its own part of the table, and the class token three
# rows of its own. The library has divided $q$ by $\sqrt{D_h}$ before, as for `attend`:


# %%
def naive_offsets(q, table):
    h, N, Dh = q.shape
    bias = np.zeros((h, N, N))
    for head in range(h):
        for i in range(N):
            for j in range(N):
                r = table[i - j + N - 1, head * Dh : (head + 1) * Dh]
                bias[head, i, j] = q[head, i] @ r
    return bias


rng = np.random.default_rng(0)
q, table = rng.normal(size=(1, 2, 5, 3)), rng.normal(size=(9, 6))  # h = 2, N = 5, Dh = 3
bias, _ = relative_positions(q, table, class_token=False)  # (1, 2, 5, 5)
assert abs(bias[0] - naive_offsets(q[0], table)).max() < 1e-13

# %% [markdown]
# Each entry $b_{ij}$ is a product of two vectors. So $q_i$ receives $Σ_j db_{ij} · r_{i - j}$, and
# each $r$ the sum of $db_{ij} · q_i$ over *all* pairs with its offset: whatever is used more than
# once sums its gradients. The check, of the bias by itself and inside the attention:

# %%
errors = minivit.gradcheck(relative_positions, q, table, False)
assert errors.worst < 1e-12
qkv, out = ({"kernel": rng.normal(size=(6, n)), "bias": rng.normal(size=n)} for n in (18, 6))
relative = {"table": rng.normal(size=(9, 6))}
z = rng.normal(size=(2, 5, 6))
errors = minivit.gradcheck(self_attention, z, qkv, out, 2, relative, False)
print(errors)
assert errors.worst < 1e-12

# %% [markdown]
# **Does it pay?** The paper's Table 8 compares them for ViT-B/16, by the accuracy of a linear model
# fitted to what the ViT makes of five ImageNet images a class: 61.4% without positions, 64.2% for
# one learned vector a place, 64.0% for a half for the row and a half for the column, 64.0% for
# offsets. That a patch has a place matters; how it is told hardly does. With 14 x 14 places there
# is little to learn.

# %% [markdown]
# ## Attention along rows and columns
#
# Chapter 1 counted: if all tokens look at all, which is called *global*, they compare $N^2$ pairs.
# Axial attention (Ho et al., 2019) lets a token look along its row, and in a second step along its
# column. On a grid of $G × G$ it has $2 G$ partners instead of $G^2$. No new mathematics is needed:
# `attend` takes any number of axes in front, so the rows may stand there, or the columns.


# %%
def axial(q, k, v):
    """Attend along rows, then along columns of the result.  q, k, v (B, h, G, G, Dh)"""
    by_row, row_back = attend(q, k, v)
    flip = (x.swapaxes(2, 3) for x in (q, k, by_row))  # swap rows and columns
    y, column_back = attend(*flip)

    def pullback(dy):
        dq2, dk2, dby_row, _ = column_back(dy.swapaxes(2, 3))
        dq1, dk1, dv, _ = row_back(dby_row.swapaxes(2, 3))
        return dq1 + dq2.swapaxes(2, 3), dk1 + dk2.swapaxes(2, 3), dv

    return y.swapaxes(2, 3), pullback


# %% [markdown]
# The queries and keys are used twice, so each receives two gradients, which add up; the values go
# through both attentions, one after the other. After the two steps every token has heard from
# every other, by way of the one that stands in its column and the other's row:

# %%
q, k, v = rng.normal(size=(3, 1, 2, 4, 4, 3))  # each (B, h, G, G, Dh)
errors = minivit.gradcheck(axial, q, k, v)
assert errors.worst < 1e-12
dy = np.zeros_like(q)
dy[..., 0, 0, :] = 1  # the gradient of one corner only
_, _, dv = axial(q, k, v)[1](dy)
print(f"the corner depends on {(abs(dv) > 0).mean():.0%} of the values")
assert (abs(dv) > 0).all()  # every value receives a gradient

# %% [markdown]
# ## Operations saved, and time saved
#
# A third kind looks within windows of 8 x 8 patches. Each token has 64 partners, on however large a
# grid, but two windows never meet. On paper the savings grow with the grid. What does a clock say?
# The three kinds were timed in turns, forward and backward, for three heads with $D_h$ = 64 on one
# core, by `python chapters/measured/attention_kinds.py`.

# %%
with open("chapters/measured/attention_kinds.csv") as file:
    rows = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]
ratios = {}
for kind in ("axial", "windowed"):
    flops = [row["global_gflop"] / row[f"{kind}_gflop"] for row in rows]
    times = [row["global_ms"] / row[f"{kind}_ms"] for row in rows]
    ratios[kind] = flops, times
    for row, f, t in zip(rows, flops, times, strict=True):
        if row["side"] in (8, 16, 64):
            print(f"{kind}, side {row['side']:.0f}: operations / {f:.0f}, time / {t:.1f}")

# %%
figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
sides = [row["side"] for row in rows]
styles = {"color": "C0", "marker": "o"}, {"color": "C1", "marker": "s"}
for (kind, (flops, times)), style in zip(ratios.items(), styles, strict=True):
    axis.loglog(sides, flops, ls="--", mfc="w", label=f"{kind}: operations", **style)
    axis.loglog(sides, times, label=f"{kind}: time", **style)
axis.axhline(1, color="0.5", lw=0.8)
axis.axvline(14, color="0.5", ls=":")
axis.annotate("ViT-B/16 at 224 px", (14, 40), (4, 0), textcoords="offset points", color="0.3")
axis.set(xlabel="patches along a side", ylabel="cost of global attention / cost of this kind")
axis.set_xticks(sides, [f"{side:.0f}" for side in sides])
axis.set_yticks([1, 2, 5, 10, 20, 50, 100], [1, 2, 5, 10, 20, 50, 100])
axis.minorticks_off()
axis.legend(loc="lower right")
save_figure(figure, "figures/A_relatives.png")

# %% [markdown]
# ![Global attention's cost as a multiple of that of axial and of windowed attention. Dashed and
# hollow, operations; solid, time. On small grids axial attention saves less time than
# operations.](../figures/A_relatives.png)
#
# On a small grid axial attention is many small matrix products, and a processor is at its best with
# few large ones; also, the columns have to be copied into place. On a large grid global attention
# has a trouble of its own: its scores no longer fit into the cache, and it waits for memory.

# %% [markdown]
# And the attention's products are the smaller part of a block. With $M = 4 D$, as in the paper, a
# token passes through linear layers of $24 D^2$ multiplications and additions (8 in the attention,
# 16 in the MLP). To meet $N$ tokens, in scores and weighted mean, takes $4 N D$:

# %%
D, N = 768, 196  # ViT-B/16
fraction = 4 * N * D / (24 * D * D + 4 * N * D)
print(f"attention takes {fraction:.1%} of a block's operations")
assert 0.03 < fraction < 0.06

# %% [markdown]
# The paper built axial models too (appendix D.6). Each block became two, one for rows and one for
# columns, each with an MLP of its own. They were more accurate and cost *more*: a second MLP costs
# far more than short rows save. A convolutional network with axial attention was modest in
# operations, but very slow on the authors' hardware. So this book stays with plain attention and
# large patches, like the paper.
#
# ## Exercises
#
# **Predict.** Of two patches, one ends a row and the other begins the next. In the raster they
# follow one another, at an offset of 1. Which other pairs share this offset and its vector $r$?

# %%
gw = 4
pairs = [(divmod(j, gw), divmod(j + 1, gw)) for j in range(2 * gw - 1)]  # two rows of four
print("neighbours:", *(f"{a}-{b}" for a, b in pairs if a[0] == b[0]))
print("not neighbours:", *(f"{a}-{b}" for a, b in pairs if a[0] != b[0]))
assert sum(a[0] == b[0] for a, b in pairs) == 6  # horizontal neighbours in the image

# %% [markdown]
# All neighbours within a row. An offset in the raster cannot tell a neighbour from a line break.
# That is the price of counting in one dimension, and may be one more reason why little is gained.
#
# **Write.** `windowed_attention(q, k, v, window)`: tokens (B, heads, T, Dh) see only those in their
# own window of consecutive tokens. `python -m minivit exercise A --start` puts a frame into
# `exercises/`; `python -m minivit exercise A` grades it; `--hint` helps.
#
# **Ablation.** In `axial`, give the second attention `v` instead of `by_row`, and let `dv` be what
# `column_back` returns for it, axes swapped. The last assert fails: a quarter of the values reach
# the corner, those of its own column.
