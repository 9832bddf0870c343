# %% [markdown]
# # 8. GELU and the MLP
#
# Attention carries values from token to token. What does a token do with what it got? In Equation 3
# it goes through an MLP (multi-layer perceptron): two matrices, and a bend of each entry between.
#
# $$ \mathrm{MLP}(x) = \mathrm{GELU}(x W_1 + b_1) W_2 + b_2 $$
#
# $W_1$ widens a token from $D$ entries to $M$, often $4 D$; $W_2$ brings it back. Why the bend?

# %%
import math
from functools import partial

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure
from minivit.layers import gelu, linear, mlp, self_attention

# %% [markdown]
# ## Why a bend
#
# Without it the second matrix is wasted. Two linear layers in a row are one, and its matrix is $D$
# by $D$, however large $M$ is:
#
# $$ (x W_1 + b_1) W_2 + b_2 = x (W_1 W_2) + (b_1 W_2 + b_2) $$

# %%
T, D, M = 5, 6, 8
rng = np.random.default_rng(8)
x = rng.normal(size=(T, D))
hidden = {"kernel": rng.normal(size=(D, M)), "bias": rng.normal(size=M)}
out = {"kernel": rng.normal(size=(M, D)), "bias": rng.normal(size=D)}
two_layers, _ = linear(linear(x, **hidden)[0], **out)
bias = hidden["bias"] @ out["kernel"] + out["bias"]
one_layer, _ = linear(x, hidden["kernel"] @ out["kernel"], bias)
assert abs(two_layers - one_layer).max() < 1e-12

# %% [markdown]
# ## Weigh x by its rank
#
# A gate that lets $x$ pass if it is positive, and nothing else, is a bend: ReLU, $x$ times 1 or 0.
# GELU (Hendrycks and Gimpel, 2016) opens the gate gradually. It is $x · Φ(x)$, where $Φ(x)$ is the
# chance that a number drawn from the normal distribution is smaller than $x$. That can be counted,
# or computed by the error function: $Φ(x) = (1 + \mathrm{erf}(x / \sqrt{2})) / 2$, where
# $\mathrm{erf}(z)$ is the area under $2 e^{-t^2} / \sqrt{π}$ from 0 to $z$.
#
# The authors' code has tanh instead. $a = \sqrt{2 / π}$ gives this $Φ$ the right slope at 0; the
# term with $x^3$ bends it into shape further out:
#
# $$ \mathrm{GELU}(x) = x · (1 + \mathrm{tanh}(u)) / 2, \qquad u = a (x + 0.044715 x^3) $$


# %%
def normal_cdf(x, kind):
    if kind == "erf":
        return 0.5 * (1 + math.erf(x / math.sqrt(2)))
    return 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_in_loops(x, kind):
    return np.array([[entry * normal_cdf(entry, kind) for entry in row] for row in x])


for kind in ("erf", "tanh"):
    assert abs(gelu(x, kind)[0] - gelu_in_loops(x, kind)).max() < 1e-14
samples = rng.normal(size=1_000_000)
for x0 in (-1, 0.5, 2):
    fraction, exact, approximate = (
        np.mean(samples < x0),
        normal_cdf(x0, "erf"),
        normal_cdf(x0, "tanh"),
    )
    print(f"{x0:4}  samples {fraction:.3f}  exact {exact:.4f}  tanh {approximate:.4f}")
    assert abs(fraction - exact) < 0.003

# %% [markdown]
# ## The way back
#
# GELU works on each entry alone, so its pullback multiplies $dy$ by the slope $y'$. By the product
# rule that is $Φ(x)$ plus $x$ times the slope of $Φ$. In the exact form, the slope of $Φ$ is the
# normal density $φ$, because $Φ$ is the area under it:
#
# $$ y' = Φ(x) + x · φ(x), \qquad φ(x) = e^{-x^2 / 2} / \sqrt{2π} $$
#
# In the tanh form the slope of $Φ$ is $(1 - t^2) u' / 2$ with $t = \mathrm{tanh}(u)$. As $t$ is
# $2 Φ - 1$, that is $2 Φ (1 - Φ) u'$:
#
# $$ y' = Φ + x · 2 Φ (1 - Φ) · u', \qquad u' = a (1 + 3 · 0.044715 x^2) $$

# %%
dy = rng.normal(size=x.shape)
cdf = {kind: gelu_in_loops(x, kind) / x for kind in ("erf", "tanh")}  # Φ(x)
density = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
derivatives = {
    "erf": cdf["erf"] + x * density,
    "tanh": cdf["tanh"] + x * 2 * cdf["tanh"] * (1 - cdf["tanh"]) * du,
}
for kind in ("erf", "tanh"):
    _, pullback = gelu(x, kind)
    assert abs(pullback(dy) - dy * derivatives[kind]).max() < 1e-13
    errors = minivit.gradcheck(gelu, x, kind)
    assert errors.worst < 1e-12

# %% [markdown]
# **How far apart are the two?** The libraries timm and Hugging Face run the same weights with erf.

# %%
x_wide = np.linspace(-5, 5, 100_001)
(exact, exact_back), (approximate, tanh_back) = gelu(x_wide, "erf"), gelu(x_wide, "tanh")
difference = approximate - exact
worst = abs(difference).argmax()
print(f"maximum difference {abs(difference[worst]):.2e}, at |x| = {abs(x_wide[worst]):.2f}")
assert abs(abs(difference[worst]) - 4.73e-4) < 5e-7
assert abs(abs(x_wide[worst]) - 2.70) < 0.005

# %%
derivative, tanh_derivative = (back(np.ones_like(x_wide)) for back in (exact_back, tanh_back))
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
left.plot(x_wide, exact, "C0", lw=5, alpha=0.4, label="GELU, exact")
left.plot(x_wide, approximate, "C0--", label="GELU, tanh")
left.plot(x_wide, derivative, "C1", lw=5, alpha=0.4, label="derivative, exact")
left.plot(x_wide, tanh_derivative, "C1-.", label="derivative, tanh")
left.set(xlabel="x", xlim=(-4, 4), ylabel="GELU and its derivative", ylim=(-0.4, 2.6))
right.plot(x_wide, 1e4 * difference, "C0", label="GELU")
right.plot(x_wide, 1e4 * (tanh_derivative - derivative), "C1--", label="derivative")
right.set(xlabel="x", ylabel="(tanh - exact) × 10,000")
left.legend(), right.legend()
save_figure(figure, "figures/08_gelu_and_mlp.png")

# %% [markdown]
# ![Left, GELU and its slope, exact and by tanh, which the eye cannot tell apart; right, their
# differences ten thousand times enlarged.](../figures/08_gelu_and_mlp.png)
#
# **The exact form, by tanh as well.** With the right function $p$, the exact $Φ(x)$ is
# $(1 + \mathrm{tanh}(x · p(x^2))) / 2$. The authors' $p$ is a polynomial of two coefficients. With
# seven, fitted once, it is exact to what float32 can hold, in a quarter of the time SciPy takes for
# erf alone (`python tests/benchmarks/gelu.py`). In float64 the library integrates instead.

# %%
x32 = x_wide.astype("float32")
error = gelu(x32, "erf")[0] - gelu(x32.astype("float64"), "erf")[0]
worst = abs(error / np.maximum(1, abs(x32))).max()
print(f"float32: maximum error {worst:.0e}, relative to the larger of 1 and |x|")
assert worst < 2e-7

# %% [markdown]
# ## The MLP
#
# In loops, one token after the other. The pullback is three known ones, the last first.


# %%
def mlp_in_loops(x, hidden, out):
    y = np.zeros_like(x)
    for t in range(len(x)):
        h = x[t : t + 1] @ hidden["kernel"] + hidden["bias"]  # (1, M)
        y[t] = gelu_in_loops(h, "tanh")[0] @ out["kernel"] + out["bias"]
    return y


y, _ = mlp(x, hidden, out)  # (T, D)
assert abs(y - mlp_in_loops(x, hidden, out)).max() < 1e-13
errors = minivit.gradcheck(mlp, x, hidden, out)
assert errors.worst < 1e-12

# %% [markdown]
# Each token is by itself. Shuffle the tokens and the outputs are shuffled; change one and only its
# own output changes. Only attention lets tokens meet. Yet most of the work is here: chapter 7
# counted 349 + 30 + 30 + 116 = 525 million multiplications for a layer's attention in ViT-B/16.

# %%
order = rng.permutation(T)
assert abs(mlp(x[order], hidden, out)[0] - y[order]).max() < 1e-13
changed = x.copy()
changed[2, 0] += 1
has_changed = abs(mlp(changed, hidden, out)[0] - y).max(-1) > 1e-13
assert has_changed.tolist() == [False, False, True, False, False]
print(f"MLP of ViT-B/16: {2 * 197 * 768 * 3072 / 1e6:.0f} million multiplications")  # 2 T D M

# %% [markdown]
# ## The model so far
#
# Chapter 7's model with an MLP, $M = 64$, behind its four heads. The layers between positions and
# mean are a dict, run in its order, so that any can be left out. Each takes what the one before
# returns; from chapter 9 on a layer's output is added to its input instead.

# %%
from minivit.layers import add_positions, mean_pool, patch_embedding
from minivit.training import fit_logistic_regression, train_sgd

digits = minivit.data.load_digits()
recipe = {"epochs": 20, "batch_size": 64, "learning_rate": 0.1, "seed": 0}


# %%
def model(images, params, layers):
    backs = {}
    z, backs["patch_embedding"] = patch_embedding(images, **params["patch_embedding"], patch_size=2)
    z, backs["positions"] = add_positions(z, **params["positions"])  # (B, 16, 32)
    for name, layer in layers.items():
        z, backs[name] = layer(z, **params[name])
    pooled, pool_back = mean_pool(z)  # (B, 32)
    logits, head_back = linear(pooled, **params["head"])  # (B, 10)

    def pullback(dlogits):
        dpooled, dhead = head_back(dlogits)
        dz, dparams = pool_back(dpooled), {"head": dhead}
        for name in reversed(backs):
            dz, dparams[name] = backs[name](dz)
        return dz, dparams  # the gradient of the images

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
        "mlp": {"hidden": layer(32, 64), "out": layer(64, 32)},
        "head": {"kernel": np.zeros((32, 10), "float32"), "bias": np.zeros(10, "float32")},
    }


# %%
attention = {"attention": partial(self_attention, heads=4)}
accuracies = []
for layers in ({}, {"mlp": mlp}, attention, attention | {"mlp": mlp}):
    accuracies.append(train_sgd(partial(model, layers=layers), create(), digits, **recipe)[-1])
    print(f"{' and '.join(layers) or 'neither':17} held-out accuracy {accuracies[-1]:.1%}")
print(
    f"the model so far: held-out accuracy {accuracies[-1]:.1%} "
    f"(logistic regression on the pixels: {fit_logistic_regression(digits):.1%})"
)
assert accuracies[0] < 0.3 < 0.6 < accuracies[1] < 0.84 < min(accuracies[2:])

# %% [markdown]
# With neither, all is a linear model of the mean patch. The MLP alone bends each token before the
# mean, without a look at any other, and that is worth much. Behind attention it adds less: seeds 1
# and 2 gave 88.3 and 93.3% without it, 91.9 and 95.0% with it. (These 8 x 8 digits are easy for a
# linear model that has every pixel in its place.)
#
# ## Exercises
#
# **Predict.** ReLU's slope is 0 or 1. Where is GELU's largest? And what is $y'(x) + y'(-x)$?

# %%
print(
    f"derivative from {derivative.min():.3f} to {derivative.max():.3f}, "
    f"largest at x = {x_wide[derivative.argmax()]:.3f}"
)
assert abs(x_wide[derivative.argmax()] - math.sqrt(2)) < 1e-4
assert abs(derivative + derivative[::-1] - 1).max() < 1e-13

# %% [markdown]
# The slope's own slope is $φ(x) (2 - x^2)$, which is 0 at $\sqrt{2}$ and $-\sqrt{2}$. And the sum
# is 1: $Φ(x) + Φ(-x)$ is, and $x · φ(x)$ changes its sign with $x$.
#
# **Write.** `quick_gelu(x)`: $x · σ(1.702 x)$ with $σ(x) = 1 / (1 + e^{-x})$, a third form, known
# from CLIP, one exp and no more. `python -m minivit exercise 8 --start` puts a frame into
# `exercises/`; `python -m minivit exercise 8` grades it; `--hint` helps.
#
# **Ablation.** In `layers`, replace the MLP by two `linear` without a nonlinearity. Without
# attention, the accuracy was 15.3% (18.3 and 19.7% with seeds 1 and 2). After attention, it was
# 95.3% (96.4, 96.4), no worse than with GELU: the softmax of attention is a nonlinearity too.
