# %% [markdown]
# # 3. Tokens and positions
#
# Chapter 2 left an image as $N$ tokens of width $D$. Two things are missing. Which vector will
# stand for the whole image? And from which place did a token come? All tokens are treated alike,
# so an image and a jumble of its patches would be the same to the model. Equation 1 of the paper
# answers both by learned vectors: one more token, and something added to each.
#
# $$ z_0 = [x_{class}; x_p^1 E; x_p^2 E; ...; x_p^N E] + E_{pos} \qquad (1) $$
#
# $x_p^i$ is patch $i$, $E$ the kernel of chapter 2, $x_{class} ∈ ℝ^D$ the class token; semicolons
# put rows under one another. The class token comes first, so there are $T = N + 1$ tokens, and
# $E_{pos} ∈ ℝ^{T × D}$ has a row for each.

# %%
from functools import partial

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure
from minivit.layers import add_positions, add_positions_2d, prepend_class_token

# %% [markdown]
# In loops, where `x` holds the $x_p^i E$. Class token and table are the same for every image:


# %%
def naive_equation_1(x, class_token, table):  # (B, N, D), (D,), (T, D)
    B, N, D = x.shape
    z = np.zeros((B, N + 1, D))
    for b in range(B):
        z[b, 0] = class_token + table[0]
        for i in range(N):
            z[b, i + 1] = x[b, i] + table[i + 1]
    return z


rng = np.random.default_rng(0)
x, class_token, table = rng.normal(size=(3, 6, 4)), rng.normal(size=4), rng.normal(size=(7, 4))
tokens, class_back = prepend_class_token(x, class_token)  # (B, N + 1, D)
z, positions_back = add_positions(tokens, table)  # (B, T, D)
assert np.array_equal(z, naive_equation_1(x, class_token, table))

# %% [markdown]
# The class token comes from no patch: it is a blank page. From chapter 6 on, tokens read one
# another, and what the class token has read by the last layer stands for the image (chapter 10).
#
# ## The pullbacks
#
# In a sum, a step of either part is a step of the whole, so $dz$ goes to the tokens as it is. The
# table is the same in every image: a step of it moves all $B$ of them, and its gradient is a sum.
#
# $$ dE_{pos} = Σ_b dz_b, \qquad dx_{class} = Σ_b dz_b^0 $$

# %%
dz = rng.normal(size=z.shape)
dtokens, dpositions = positions_back(dz)
dx, dclass = class_back(dtokens)
assert np.array_equal(dtokens, dz)
assert np.array_equal(dx, dz[:, 1:])  # the patches' gradient is unchanged
assert abs(dpositions["table"] - (dz[0] + dz[1] + dz[2])).max() < 1e-13
assert np.array_equal(dclass["class_token"], dpositions["table"][0])

# %% [markdown]
# The last line holds to the bit, and not by chance. In every image the first token is
# $x_{class} + E_{pos}^0$: the model sees these two vectors only as their sum. So both receive the
# same gradient, $dz^0$ summed over the batch. One of the two would do; gradient descent moves them
# by equal steps, and their difference stays what it was when they were drawn.
#
# ## Rows and columns
#
# $E_{pos}$ takes the patches as a line, in reading order. Appendix D.4 also tries a grid, of gh
# rows and gw columns: half of the $D$ entries tell the column of a patch, the other half its row.
# The class token has no place on the grid. Here it keeps a vector of its own.

# %%
rows, columns = rng.normal(size=(2, 2)), rng.normal(size=(3, 2))  # (gh, D / 2), (gw, D / 2)
z, grid_back = add_positions_2d(tokens, rows, columns, class_token)
grid = [np.concatenate([column, row]) for row in rows for column in columns]
assert np.array_equal(z[:, 1:], x + np.stack(grid))
_, dgrid = grid_back(dz)
patches = dz.sum(0)[1:].reshape(2, 3, 4)  # (gh, gw, D)
assert abs(dgrid["columns"] - patches[:, :, :2].sum(0)).max() < 1e-13
assert abs(dgrid["rows"] - patches[:, :, 2:].sum(1)).max() < 1e-13

# %% [markdown]
# The same rule again: the half of a column serves all patches in it, and its gradient is their
# sum. In ViT-Base with 14 x 14 patches and $D = 768$, the line has $197 · 768 = 151296$ numbers,
# the grid $2 · 14 · 384 + 768 = 11520$. In the paper's test on ImageNet, with five images a class,
# they end level: 64.2% with the line, 64.0% with the grid, 61.4% with neither (Table 8).

# %%
for errors in (
    minivit.gradcheck(prepend_class_token, x, class_token),
    minivit.gradcheck(add_positions, tokens, table),
    minivit.gradcheck(add_positions_2d, tokens, rows, columns, class_token),
):
    assert errors.worst < 1e-12

# %% [markdown]
# ## The model so far
#
# Chapter 2's model, the mean of the tokens and a linear head, gets positions. (`patch_embedding` is
# `patchify` and `linear` in one.) The class token waits until there is something to read. Before
# the mean, each entry of a token can be raised to a power: that is for later, at first it is 1.

# %%
from minivit.layers import linear, mean_pool, patch_embedding, patchify, unpatchify
from minivit.training import fit_logistic_regression, train_sgd

NONE = {"table": np.zeros((16, 32), "float32")}  # no position embeddings: zeros, not trained


def create_params(rng):
    kernel, table = rng.normal(size=(4, 32)) / 2, rng.normal(size=(16, 32))
    return {
        "patch_embedding": {"kernel": kernel.astype("float32"), "bias": np.zeros(32, "float32")},
        "positions": {"table": table.astype("float32")},
        "head": {"kernel": np.zeros((32, 10), "float32"), "bias": np.zeros(10, "float32")},
    }


# %%
def classify(images, params, power=1):
    x, embedding_back = patch_embedding(images, **params["patch_embedding"], patch_size=2)
    z, positions_back = add_positions(x, **params.get("positions", NONE))
    y, pool_back = mean_pool(z**power)  # (B, D)
    logits, head_back = linear(y, **params["head"])  # (B, K)

    def pullback(dlogits):
        dy, dhead = head_back(dlogits)
        dz = power * z ** (power - 1) * pool_back(dy)  # (B, N, D)
        dx, dpositions = positions_back(dz)
        dimages, dembedding = embedding_back(dx)
        dparams = {"patch_embedding": dembedding, "positions": dpositions, "head": dhead}
        return dimages, {name: dparams[name] for name in params}

    return logits, pullback


# %%
def train(data, positions, power=1):
    params = create_params(np.random.default_rng(0))
    if not positions:
        del params["positions"]
    model = partial(classify, power=power)
    return params, train_sgd(
        model, params, data, epochs=20, batch_size=64, learning_rate=0.1, seed=0
    )[-1]


data = minivit.data.load_digits()
_, baseline = train(data, positions=False)
print(f"without position embeddings: held-out accuracy {baseline:.1%}")
params, accuracy = train(data, positions=True)
print(f"the model so far: held-out accuracy {accuracy:.1%}", end=" ")
print(f"(logistic regression on the pixels: {fit_logistic_regression(data):.1%})")
assert abs(accuracy - baseline) < 0.05 < 0.08 < accuracy < 0.25

# %% [markdown]
# Positions gain nothing. (A linear model that sees every pixel finds these small digits easy; this
# one sees their mean.) With $p_i$ for the rows of the table, the reason is one line:
#
# $$ \mathrm{mean}(x_p^i E + p_i) = \mathrm{mean}(x_p^i) E + \mathrm{mean}(p_i) $$
#
# The mean of the rows is the same in every image, and the head's bias could say it as well:

# %%
table, head = params["positions"]["table"], params["head"]
new_head = {"kernel": head["kernel"], "bias": head["bias"] + table.mean(0) @ head["kernel"]}
with_bias, _ = classify(
    data.images, {"patch_embedding": params["patch_embedding"], "head": new_head}
)
assert abs(with_bias - classify(data.images, params)[0]).max() < 1e-5

# %% [markdown]
# ## One bend is enough
#
# Let something that is not linear happen to each token before the mean is taken, and its place
# can be heard. Power 2 will do: the square of each entry, $(x_p^i E + p_i)^2$, contains
# $2 p_i · x_p^i E$, in which every place weighs its patch differently. (Squares help without
# positions too: their mean tells which pixels of a patch go together, but not where it was.)

# %%
params_without, accuracy_without = train(data, positions=False, power=2)
params_with, accuracy_with = train(data, positions=True, power=2)
squared = partial(classify, power=2)
assert minivit.gradcheck(squared, data.images[:1], params_with).worst < 1e-12
print(
    f"squared tokens: held-out accuracy {accuracy_without:.1%} without position embeddings, "
    f"{accuracy_with:.1%} with them"
)
assert 0.35 < accuracy_without < 0.6 < 0.8 < accuracy_with

# %% [markdown]
# Without positions an image is a bag of patches, and shuffling them changes nothing. To see this to
# the bit, no sum may be rounded, or its order would matter. So the weights are rounded to
# multiples of 1/256. Pixels are multiples of 1/8, so tokens are of $2^{-11}$, their squares of
# $2^{-22}$, the mean of 16 of $2^{-26}$, the logits of $2^{-34}$. In this unit all are whole
# numbers, and float64 is exact for those below $2^{53}$.


# %%
def shuffle(images, order):
    patches, _ = patchify(images, 2)
    return unpatchify(patches[:, order], 2, 8, 8)[0]


order = np.random.default_rng(1).permutation(16)
inputs = [data.held_out_images, shuffle(data.held_out_images, order)]
logits = []
for params in (params_without, params_with):
    leaves = minivit.flatten(params)
    exact = {name: np.round(256 * leaf).astype(float) / 256 for name, leaf in leaves.items()}
    logits.append([classify(v.astype(float), minivit.unflatten(exact), 2)[0] for v in inputs])
assert np.array_equal(*logits[0])  # bitwise equal for all 360 images
assert abs(np.array(logits)).max() * 2**34 < 2**45  # below 2^53: all float64 sums are exact

# %%
shape = {"figsize": (9, 4), "width_ratios": [1, 2, 2], "layout": "constrained"}
titles = ["without position embeddings", "with position embeddings"]
figure, axes = plt.subplot_mosaic("0ab;1ab", **shape)
for i, name in enumerate(["in order", "shuffled"]):
    axes[f"{i}"].imshow(inputs[i][10, :, :, 0], cmap="gray")
    axes[f"{i}"].set(xticks=[], yticks=[], title=name)
    for axis, title, pair in zip("ab", titles, logits, strict=True):
        axes[axis].plot(pair[i][10], ["oC0", "xC1"][i], ms=10 - 2 * i, mfc="none", label=name)
        axes[axis].set(xlabel="class", xticks=range(10), ylabel="logit", title=title)
axes["a"].legend()
save_figure(figure, "figures/03_tokens_and_positions.png")
shuffled_accuracy = [(pair[1].argmax(1) == data.held_out_labels).mean() for pair in logits]
print(
    f"shuffled images: held-out accuracy {shuffled_accuracy[0]:.1%} without position embeddings, "
    f"{shuffled_accuracy[1]:.1%} with them"
)
assert shuffled_accuracy[1] < 0.3 < shuffled_accuracy[0]

# %% [markdown]
# ![A six and its shuffled patches. Without positions both have the same logits; with positions
# the shuffled six is called a seven.](../figures/03_tokens_and_positions.png)
#
# Attention will share this: give it the tokens in another order, and its outputs come in that
# order, otherwise the same (chapter 6). Only $E_{pos}$ tells a ViT where a patch was.
#
# ## Exercises
#
# **Predict.** Shuffle all images, to train on and held out, in the one same way. What will the
# model with positions and squares reach now?

# %%
shuffled = {name: shuffle(getattr(data, name), order) for name in ("images", "held_out_images")}
_, accuracy = train(data._replace(**shuffled), positions=True, power=2)
print(f"same permutation in all images: held-out accuracy {accuracy:.1%}")
assert abs(accuracy - accuracy_with) < 0.05

# %% [markdown]
# About as much as before. The rows of the table are drawn alike, and nothing says that row 1
# belongs beside row 2: what is near and what is far, a ViT has to learn.
#
# **Write.** `prepend_registers(x, registers)`: $R$ learned tokens $(R, D)$ go before the patches.
# Large ViTs use them as scratch paper (Darcet et al., 2024).
# `python -m minivit exercise 3 --start` puts a frame into `exercises/`;
# `python -m minivit exercise 3` grades it; `--hint` helps.
#
# **Ablation.** Multiply `table` by 0.02 in `create_params`: 0.02 is the standard deviation that
# the authors use.
# With positions and squares we then measured 57.2% instead of 89.2%, and the assert stops there.
# Beside patches of four pixels so soft a voice is hardly heard.
