# %% [markdown]
# # 5. Softmax
#
# In the next chapter every token gives every other a *score*, and reads most where the score is
# highest. How do scores, which are any numbers, become *weights*: positive, with the sum 1? And
# why does Equation 6 of the paper divide the scores first?
#
# $$ A = \mathrm{softmax}(q k^T / \sqrt{D_h}) \qquad (6) $$
#
# A score is the dot product of two vectors of $D_h$ entries, a row of $q$ and a row of $k$; chapter
# 6 says where they come from. Softmax, met in chapter 2 inside cross-entropy, makes weights:
#
# $$ p_i = e^{x_i} / Σ_j e^{x_j} $$

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure
from minivit.layers import softmax

# %% [markdown]
# In loops, for each row of $n$ scores:


# %%
def naive_softmax(x):
    p = np.zeros(x.shape)
    for t in range(len(x)):
        exps = [math.exp(score) for score in x[t]]
        for i in range(len(exps)):
            p[t, i] = exps[i] / sum(exps)
    return p


x = np.random.default_rng(0).normal(size=(4, 5))  # 4 rows of n = 5 scores
p, pullback = softmax(x)
assert abs(p - naive_softmax(x)).max() < 1e-13
assert abs(p.sum(-1) - 1).max() < 1e-13

# %% [markdown]
# The exponential is positive, keeps the order of the scores, and turns differences into ratios:
# $p_i / p_j = e^{x_i - x_j}$. Only differences count. If every score grows by $c$, both parts of
# the fraction grow $e^c$ times, and $p$ stays as it was.
#
# ## A shift that changes nothing
#
# This freedom is needed. $e^x$ leaves the range of float64 between $x = 709$ and 710, and that of
# float32 between 88 and 89. Beyond, it is infinite, and infinite over infinite is not a number:

# %%
large = np.array([[1000.0, 1001.0, 1002.0]])
with np.errstate(over="ignore", invalid="ignore"):
    exps = np.exp(large)
    print(exps / exps.sum())
    assert np.isnan(exps / exps.sum()).all()
    assert list(np.isinf(np.exp(np.array([709.0, 710.0])))) == [False, True]
    assert list(np.isinf(np.exp(np.array([88.0, 89.0], "float32")))) == [False, True]
print(softmax(large)[0].round(3))
assert np.array_equal(softmax(large)[0], softmax(large - 1000)[0])

# %% [markdown]
# `softmax` first subtracts from each row its largest score. Then the largest exponential is
# $e^0 = 1$, nothing can overflow, and the sum lies between 1 and $n$. The weight of a far smaller
# score may become 0, which is as near to the truth as a float can be.
#
# The largest score depends on $x$. Must the pullback know of it? No: $p$ is the same for every
# shift, so how the shift moves does not matter.

# %% [markdown]
# ## The Jacobian
#
# Unlike the sigmoid of chapter 0, every output depends on every input. Write $S$ for the sum of the
# exponentials, $p_i = e^{x_i} / S$, and let $x_j$ move. The denominator always follows, at the rate
# $e^{x_j}$, and changes $p_i$ by $-e^{x_i} e^{x_j} / S^2 = -p_i p_j$. The numerator follows only
# if $i = j$, and adds $e^{x_i} / S = p_i$. The table of all these slopes is the *Jacobian*:
#
# $$ J_{ij} = ∂p_i / ∂x_j = p_i δ_{ij} - p_i p_j, \qquad J = \mathrm{diag}(p) - p p^T $$
#
# Here $δ_{ij}$ is 1 if $i = j$ and else 0, and $\mathrm{diag}(p)$ has $p$ on its diagonal. Each row
# sums to $p_i - p_i Σ_j p_j = 0$: a shift of all scores does nothing. $J$ is symmetric, so each
# column sums to zero too: what one weight gains, the others lose.


# %%
def jacobian(p):
    """Return the Jacobian of softmax.  p (..., n)  ->  J (..., n, n)"""
    return p[..., :, None] * (np.eye(p.shape[-1]) - p[..., None, :])


J = jacobian(p)  # (4, 5, 5)
assert abs(J.sum(-1)).max() < 1e-13
assert abs(J - J.swapaxes(-1, -2)).max() < 1e-13

# %% [markdown]
# ## The pullback
#
# $x_j$ moves all weights, so it collects from all of them, $dx_j = Σ_i dp_i J_{ij}$:
#
# $$ dx_j = p_j dp_j - p_j Σ_i p_i dp_i = p_j (dp_j - Σ_i p_i dp_i) $$
#
# The last sum is the mean of $dp$, each entry counted with its weight. A score counts for the loss
# as far as $dp$ at its place differs from that mean, and in proportion to its weight. There is no
# need to build $J$: with it a row costs $n^2$ products, without it $2 n$.

# %%
dp = np.random.default_rng(1).normal(size=p.shape)
dx = pullback(dp)
assert abs(dx - p * (dp - (p * dp).sum(-1, keepdims=True))).max() < 1e-13
assert abs(dx - (dp[:, None, :] @ J)[:, 0]).max() < 1e-13
assert abs(dx.sum(-1)).max() < 1e-13  # like the rows of J
errors = minivit.gradcheck(softmax, x)
assert errors.worst < 1e-12

# %% [markdown]
# `gradcheck` draws a random `dp`, and here is why. A checker that differentiates the plain sum of
# the outputs has `dp` = 1 everywhere. For softmax that sum is always 1, the right gradient is 0,
# and a pullback that returns zeros would pass:


# %%
def softmax_without_gradient(x):
    return softmax(x)[0], lambda dp: 0 * dp


assert abs(pullback(np.ones((4, 5)))).max() < 1e-13  # the gradient of sum(p) is zero
worst = minivit.gradcheck(softmax_without_gradient, x).worst
print(f"error of a pullback that returns zeros: {worst:.1f}")
assert worst > 0.5

# %% [markdown]
# ## Why the scores are divided
#
# How large is a score? Let the entries of $q$ and $k$ be independent, with mean 0 and variance 1.
# (Layer norm and then a kernel with entries of variance $1 / D$ give about that, before training.)
# A product $q_i k_i$ has mean 0 and variance $\mathrm{mean}(q_i^2) · \mathrm{mean}(k_i^2) = 1$. The
# variances of independent terms add up: $q · k$ has the variance $D_h$, and $q · k / \sqrt{D_h}$
# has 1.
#
# So with a larger $D_h$ the scores lie further apart. One weight comes near 1 and all others near
# 0, and each entry of $J$, a product $p_i (1 - p_i)$ or $-p_i p_j$, has a factor near 0. The
# softmax is *saturated*: the choice is made, and hardly any gradient comes back to change it. As a
# measure take the Frobenius norm of $J$, the root of the sum of its squared entries.


# %%
def jacobian_norm(scores):
    J = jacobian(softmax(scores)[0])
    return np.sqrt((J * J).sum((-1, -2)))  # Frobenius norms


rng = np.random.default_rng(2)
widths, rows = [1, 4, 16, 64, 256, 1024], []
for Dh in widths:
    q, k = rng.normal(size=(1000, 1, Dh)), rng.normal(size=(1000, 16, Dh))
    scores = (q * k).sum(-1)  # (1000, 16)
    plain, scaled = jacobian_norm(scores), jacobian_norm(scores / math.sqrt(Dh))
    rows.append([scores.var() / Dh, plain.mean(), np.median(plain), scaled.mean()])
    print(f"Dh = {Dh:4}: variance of q · k {scores.var():6.1f}; mean norm of J:", end=" ")
    print(f"{plain.mean():.2f}, with division by √Dh {scaled.mean():.2f}")

# %%
ratio, plain, median, scaled = np.transpose(rows)
assert abs(ratio - 1).max() < 0.1
assert plain[-1] < scaled[-1] / 5
assert median[4] < 0.02  # Dh = 256
assert abs(scaled - 0.3).max() < 0.03
figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
axis.semilogx(widths, scaled, "o-C0", base=2)
axis.semilogx(widths, plain, "s--C1", base=2)
axis.semilogx(widths, median, "^:C1", base=2)
axis.text(80, 0.315, "divided by √Dh, mean")
axis.text(80, 0.18, "not divided, mean")
axis.text(58, 0.05, "not divided, median", ha="right")
axis.set(xlabel="Dh, the dimension of queries and keys", xticks=widths, xticklabels=widths)
axis.set(ylabel="Frobenius norm of the Jacobian", ylim=(0, 0.38))
save_figure(figure, "figures/05_softmax.png")

# %% [markdown]
# ![From Dh = 16 on, the Jacobian of the undivided scores shrinks towards zero; that of the divided
# ones keeps its size.](../figures/05_softmax.png)
#
# With the division the norm stays near 0.3 for any $D_h$. Without it, it falls, and its mean still
# flatters: it comes from the few draws in which two scores lie close together. For the typical
# draw, the median, hardly any gradient is left at $D_h = 256$. ViT-B has $D_h = 64$.
#
# ## Exercises
#
# **Predict.** Two scores are 50 and 0, and the loss wants more of the second weight: `dp` is
# (0, -1). What is the gradient of the scores? And if both are first divided by $\sqrt{64} = 8$?

# %%
gradients = []
for divisor in (1, 8):
    _, back = softmax(np.array([[50.0, 0.0]]) / divisor)
    gradients.append(back(np.array([[0.0, -1.0]]))[0] / divisor)  # pullback of the division
    print(f"divided by {divisor}: {gradients[-1][0]:.1e} and {gradients[-1][1]:.1e}")
assert abs(gradients[0]).max() < 1e-20
assert abs(gradients[1]).min() > 1e-4

# %% [markdown]
# Undivided it is $p_1 p_2$ and $-p_1 p_2$, about $e^{-50}$: far too little to learn from. Divided,
# it is small too, but a billion billion times as large.
#
# **Write.** `softmax_with_temperature(x, temperature)`: $\mathrm{softmax}(x / τ)$, where $τ$, of
# shape (1,), is learned. $\sqrt{D_h}$ is a fixed temperature; with this, a model finds its own.
# `python -m minivit exercise 5 --start` puts a frame into `exercises/`;
# `python -m minivit exercise 5` grades it; `--hint` helps.
#
# **Ablation.** Leave out the root, and divide by $D_h$. For $D_h = 1024$ the norm of $J$ was then
# 0.24, not bad. But the largest of the 16 weights, `softmax(scores / Dh)[0].max(-1).mean()`, was
# 0.066, hardly more than 1/16, where the root gives 0.25. Nothing is saturated, and nothing chosen.
