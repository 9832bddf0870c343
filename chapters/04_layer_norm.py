# %% [markdown]
# # 4. Layer norm
#
# A token will pass through dozens of layers. A layer whose matrix makes its input a little too
# long, or a little too short, is followed by the next, which does the same. How does a token keep
# a sensible size? In Equations 2, 3 and 4 of the paper (chapters 9 and 10) layer norm, LN, comes
# first. It gives each token $x ∈ ℝ^D$ the mean 0 and the variance 1, and then each entry a learned
# scale and bias, at first 1 and 0 (Ba et al., 2016). Here $σ$ is the deviation, not the sigmoid:
#
# $$ \hat x = (x - μ) / σ, \qquad y = \mathrm{scale} · \hat x + \mathrm{bias} $$
#
# $$ μ = \mathrm{mean}(x), \qquad σ^2 = \mathrm{mean}((x - μ)^2) + ε, \qquad ε = 10^{-6} $$

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure
from minivit.layers import layer_norm

# %% [markdown]
# First, the trouble. If the entries of a kernel have mean 0 and variance $1 / D$, a token keeps its
# size, the root of $\mathrm{mean}(x^2)$: an output is the sum of $D$ products, each of variance
# $x_i^2 / D$, and variances of independent terms add up. Now let the entries be a tenth too large,
# or too small, in 24 layers.

# %%
D = 256
rng = np.random.default_rng(0)
kernels = rng.normal(size=(24, D, D)) / math.sqrt(D)
first = rng.normal(size=(10, D))  # ten tokens
for factor in (1.1, 0.9):
    plain = normed = first
    for kernel in factor * kernels:
        plain = plain @ kernel
        normed = layer_norm(normed, np.ones(D), np.zeros(D))[0] @ kernel
    rms = [math.sqrt((tokens**2).mean()) for tokens in (plain, normed)]
    print(f"kernels times {factor}: RMS {rms[0]:.2f} without, {rms[1]:.2f} with layer norm")
    assert abs(rms[0] / factor**24 - 1) < 0.3
    assert abs(rms[1] / factor - 1) < 0.05

# %% [markdown]
# The tenth is taken to the power of 24: $1.1^{24}$ is 9.8 and $0.9^{24}$ is 0.08. With layer norm
# every kernel meets tokens of size 1, and only the last one's tenth is left.
#
# ## In loops
#
# One token after the other, one entry after the other:


# %%
def naive_layer_norm(x, scale, bias, eps=1e-6):
    T, D = x.shape
    y = np.zeros((T, D))
    for t in range(T):
        mu = sum(x[t]) / D
        sigma = math.sqrt(sum((x[t, i] - mu) ** 2 for i in range(D)) / D + eps)
        for i in range(D):
            y[t, i] = scale[i] * (x[t, i] - mu) / sigma + bias[i]
    return y


rng = np.random.default_rng(1)
x, (scale, bias) = rng.normal(size=(5, 7)), rng.normal(size=(2, 7))
y, pullback = layer_norm(x, scale, bias)  # (5, 7)
assert abs(y - naive_layer_norm(x, scale, bias)).max() < 1e-13

# %% [markdown]
# ## The two directions it forgets
#
# Take one token. Add 5 to each entry: $μ$ grows by 5, and $x - μ$ is what it was. Or stretch it
# away from its mean: $σ$ grows by the same factor, and the quotient is what it was. Not quite, for
# $ε$ does not grow with it, and $\hat x$ moves, here by half a millionth. That is the price for not
# dividing by zero. The two moves are steps along $1 = (1, ..., 1)$ and along $\hat x$ itself, as
# $x - μ$ is $\hat x$ times $σ$. So each token has two directions in which its $y$ stands still.

# %%
token = np.random.default_rng(2).normal(size=(1, 6))
x_hat, token_back = layer_norm(token, np.ones(6), np.zeros(6))
along_1 = layer_norm(token + 5, np.ones(6), np.zeros(6))[0] - x_hat
along_x_hat = layer_norm(token + 5 * x_hat, np.ones(6), np.zeros(6))[0] - x_hat
print(
    f"change along x_hat: {abs(along_x_hat).max():.0e}; none along 1: {abs(along_1).max() < 1e-13}"
)
assert abs(along_1).max() < 1e-13 < abs(along_x_hat).max() < 1e-6

# %% [markdown]
# **Guess before you read on.** A gradient says how strongly the loss reacts to a step. What can
# it be along a direction in which the value stands still?
#
# ## The pullback, step by step
#
# Nothing, or as good as nothing: $dx$ must be orthogonal to $1$ and, but for $ε$, to $\hat x$. Four
# steps lead to it. **Scale and bias.** As $y = \mathrm{scale} · \hat x + \mathrm{bias}$, entry by
# entry, $\hat x$ receives $g = dy · \mathrm{scale}$. Every token of every image uses the same scale
# and bias, and adds its share to their gradients: the scale's is the sum of $dy · \hat x$ over all
# tokens, the bias's the sum of $dy$.

# %% [markdown]
# **The mean.** Let $c = x - μ$. When $x_j$ makes a step, $c_j$ makes it too; but $μ$ also makes a
# step, a $D$ times smaller one, and every entry of $c$ falls by that. So $x_j$ receives $dc_j$ by
# the one way and $-Σ_i dc_i / D$ by the other:
#
# $$ dx = dc - \mathrm{mean}(dc) $$
#
# **The deviation.** Where only $c_j$ moves, $σ^2 = Σ_i c_i^2 / D + ε$ gives
# $2 σ ∂σ = 2 c_j ∂c_j / D$, and so
#
# $$ ∂σ / ∂c_j = c_j / (D σ) = \hat x_j / D $$

# %% [markdown]
# **The quotient.** $c$ enters $\hat x = c / σ$ twice. By the numerator it receives $g / σ$. By the
# denominator: $\hat x_i$ changes with $σ$ at the rate $-c_i / σ^2 = -\hat x_i / σ$, so $σ$ receives
#
# $$ dσ = -Σ_i g_i \hat x_i / σ = -D · \mathrm{mean}(g · \hat x) / σ $$
#
# and hands it on to $c_j$ times $\hat x_j / D$. Both together are
# $dc = (g - \hat x · \mathrm{mean}(g · \hat x)) / σ$. Last, $dc$ loses its mean, which is
# $\mathrm{mean}(g) / σ$, because the mean of $\hat x$ is 0:
#
# $$ dx = (g - \mathrm{mean}(g) - \hat x · \mathrm{mean}(g · \hat x)) / σ $$


# %%
def layer_norm_in_steps(x, scale, bias, eps=1e-6):
    c = x - x.mean(-1, keepdims=True)  # (T, D)
    sigma = ((c * c).mean(-1, keepdims=True) + eps) ** 0.5  # (T, 1)
    x_hat = c / sigma  # (T, D)

    def pullback(dy):
        g = dy * scale
        dsigma = -(g * x_hat).sum(-1, keepdims=True) / sigma
        dc = g / sigma + dsigma * x_hat / x.shape[-1]
        dx = dc - dc.mean(-1, keepdims=True)
        return dx, {"scale": (dy * x_hat).sum(0), "bias": dy.sum(0)}

    return x_hat * scale + bias, pullback


# %% [markdown]
# From $g$ the part along $1$ and the part along $\hat x$ are taken out; the rest is divided by $σ$.
# The library's pullback is this formula. Both pass the gradient check with the complex step:

# %%
dy = np.random.default_rng(3).normal(size=x.shape)
dx_in_steps, _ = layer_norm_in_steps(x, scale, bias)[1](dy)
assert abs(pullback(dy)[0] - dx_in_steps).max() < 1e-13
for f in (layer_norm, layer_norm_in_steps):
    errors = minivit.gradcheck(f, x, scale, bias)
    assert errors.worst < 1e-12

# %% [markdown]
# How nearly orthogonal to $\hat x$ is $dx$? Multiply its formula by $\hat x$ and take the mean.
# As $\mathrm{mean}(\hat x^2)$ is not 1 but $(σ^2 - ε) / σ^2$, a little is left:
#
# $$ \mathrm{mean}(dx · \hat x) = \mathrm{mean}(g · \hat x) · ε / σ^3 $$

# %%
g = np.random.default_rng(4).normal(size=(1, 6))  # g = dy, because the scale is 1
dtoken, _ = token_back(g)
component = (dtoken * x_hat).mean()
print(f"component along x_hat: {component:.1e}; none along 1: {abs(dtoken.sum()) < 1e-13}")
assert abs(dtoken.sum()) < 1e-13
assert abs(component - (g * x_hat).mean() * 1e-6 / (token.var() + 1e-6) ** 1.5) < 1e-13

# %% [markdown]
# ## A picture in three dimensions
#
# With $D = 3$ all of it can be drawn. Subtracting the mean drops a token along $1$ onto the plane
# orthogonal to $1$. Dividing by $σ$ pulls it straight in or out, to where $\mathrm{mean}(\hat x^2)$
# is 1, but for $ε$: a circle of radius $\sqrt{3}$. Let $u$ and $v$ be two axes of length 1 that
# span the plane, and $n$ the third, along $1$.

# %%
u, v, n = [1, -1, 0] / np.sqrt(2), [1, 1, -2] / np.sqrt(6), [1, 1, 1] / np.sqrt(3)
tokens = np.array([[3.4, -0.1, 0.5], [0.6, 1.6, 0.6], [-1.7, -1.4, 1.5]])
g = np.array([[1.1, 0.7, -1.0], [-0.9, 1.1, 0.8], [-1.9, 0.3, 0.2]])
points, back = layer_norm(tokens, np.ones(3), np.zeros(3))  # projected onto the circle
steps = back(g)[0] * np.sqrt(tokens.var(1, keepdims=True) + 1e-6)  # σ dx
centred = tokens - tokens.mean(1, keepdims=True)
angle = np.linspace(0, 2 * math.pi, 200)[:, None]
circle = math.sqrt(3) * (np.cos(angle) * u + np.sin(angle) * v)  # (200, 3)
assert abs((points**2).sum(1) - 3).max() < 1e-4  # on the circle, up to ε
assert abs((steps * points).sum(1)).max() < 1e-4  # tangent to it, up to ε
assert abs(steps.sum(1)).max() < 1e-13  # in the plane


# %%
def plot_tokens(axis, view):
    """Draw all points, projected onto the two rows of `view` (2, 3): right and up."""
    axis.fill(*view @ (1.75 * circle.T), color="0.94")
    axis.plot(*view @ circle.T, color="0.3", lw=1)
    projected = np.stack([tokens, centred, points, points + g, points + steps]) @ view.T
    names = {"x": (6, 3), "x - μ": (6, 3), r"$\hat{x}$": (-4, -18), "g": (5, 0), "σ dx": (-32, 3)}
    for (name, offset), at in zip(names.items(), projected[:, 0], strict=True):
        axis.annotate(name, at, offset, textcoords="offset points", fontsize=11)
    for x3, c, x_hat, g_tip, tip in projected.swapaxes(
        0, 1
    ):  # each (2,), in the plane of the figure
        axis.plot(*zip(x3, c, strict=True), "oC0:", markevery=[0])
        axis.plot(*zip(c, x_hat, strict=True), "sC1-", markevery=[1])
        axis.plot(*zip(g_tip, tip, strict=True), ":", color="0.4")
        for end, style in (g_tip, {"color": "C2", "ls": "--"}), (tip, {"color": "C3", "lw": 2}):
            style |= {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0}
            axis.annotate("", end, x_hat, arrowprops=style)


# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
plot_tokens(left, np.stack([u, 0.47 * v + math.sqrt(1 - 0.47**2) * n]))  # oblique view
plot_tokens(right, np.stack([u, v]))  # view along 1
left.annotate("1", (0, 0), (0, 1.7), ha="center", arrowprops={"arrowstyle": "<|-"})
left.set(aspect="equal", xticks=[], yticks=[], frame_on=False)
right.set(aspect="equal", xlabel="along u", ylabel="along v")
save_figure(figure, "figures/04_layer_norm.png")

# %% [markdown]
# ![Left, three tokens drop onto the grey plane and are pulled to the circle. Right, the same seen
# along 1: each thick arrow is tangent to the circle.](../figures/04_layer_norm.png)
#
# Dashed is $g$, thick what is left of it, $σ · dx$, and dotted what was taken out. Seen along $1$
# only the part along $\hat x$ shows, and the corner at the thick arrow's tip is square. To get $dx$
# itself, divide by $σ$: far from the centre, the same step turns $\hat x$ by a smaller angle.

# %% [markdown]
# **Why each token by itself?** Mean and variance could be taken over the batch, for each entry
# (batch norm, Ioffe and Szegedy, 2015). Then an image's logits would depend on its neighbours in
# the batch, one image alone would need averages stored during training, and a batch could not be
# cut into parts that are worked on separately. A token by itself has none of these troubles.
#
# ## Exercises
#
# **Predict.** Take a token whose entries are all the same, like the pixels of an even sky. What is
# its $\hat x$? Is its $dx$ smaller than that of an ordinary token or larger, and by how much?

# %%
constant, dy = np.full((1, 6), 0.25), np.random.default_rng(6).normal(size=(1, 6))
x_hat, constant_back = layer_norm(constant, np.ones(6), np.zeros(6))
ratio = abs(constant_back(dy)[0]).max() / abs(dy - dy.mean()).max()
print(x_hat[0], f"{ratio:.0f}")
assert not x_hat.any()
assert abs(ratio - 1000) < 1e-6

# %% [markdown]
# $\hat x$ is 0, the centre of the circle, and $σ$ is $\sqrt{ε}$, a thousandth. So $dx$ is $g$
# without its mean, times 1000: the smallest step off the centre moves such a token far.
#
# **Write.** `rms_norm(x, scale, eps)`, which is $\mathrm{scale} · x / r$ with
# $r^2 = \mathrm{mean}(x^2) + ε$. It forgets one direction instead of two, and many language models
# use it (Zhang and Sennrich, 2019).
# `python -m minivit exercise 4 --start` puts a frame into `exercises/`;
# `python -m minivit exercise 4` grades it; `--hint` helps.
#
# **Ablation.** In `layer_norm_in_steps`, leave out `dsigma * x_hat / x.shape[-1]`, as if $σ$ were
# a constant. The asserts stop the chapter. `print(minivit.gradcheck(layer_norm_in_steps, x, scale,
# bias))` before them said 0.8 for `x`; scale and bias, not coming through $σ$, stayed right.
