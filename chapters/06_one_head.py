# %% [markdown]
# # 6. One head
#
# So far each token is worked on by itself, up to the mean at the end. But what tells a 1 from a 7
# is how its strokes lie to one another. How can a token look at others, and how does it find out
# which of them are worth looking at? By self-attention, Equations 5 to 7:
#
# $$ [q,k,v] = zU_{qkv}, \qquad A = \mathrm{softmax}(qk^T / \sqrt{D_h}), \qquad \mathrm{SA}(z)=Av $$

# %%
import math
from functools import partial

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure
from minivit.layers import attend, linear, single_head_attention, softmax

# %% [markdown]
# ## Who asks whom
#
# From each token, a row of $z$, the matrix $U_{qkv}$ makes three vectors of $D_h$ entries: a
# *query* (what am I looking for?), a *key* (what have I to offer?) and a *value* (what do I hand
# over if asked?), rows of $q$, $k$ and $v$. The dot product of token $i$'s query with token $j$'s
# key is a *score*. Token $i$'s scores, divided as in chapter 5, become weights by its softmax:
# $A_{ij}$ is how much it takes from token $j$. What it gets is the mean of all values by these
# weights. All this is one *head*.
#
# Here is one made by hand. A token has three entries: what it wants, what it offers, its content.
# The query is 8 times the first, the key is the second, the value the third.

# %%
z = np.array(
    [
        [+1.0, 0.0, 10.0],  # query +1
        [-1.0, 0.0, 20.0],  # query -1
        [0.0, +1.0, 30.0],  # key +1
        [0.0, -1.0, 40.0],  # key -1
    ]
)
y, _ = single_head_attention(z, np.diag([8.0, 1.0, 1.0]))  # Dh = 1: the columns are q, k, v
print(y[:, 0].round(2))
assert abs(y[:, 0] - [30, 40, 25, 25]).max() < 0.03

# %% [markdown]
# The first token asked for +1 and came back with 30, the content of the token that offers it; the
# second came back with 40. The last two want nothing. Their queries are 0, all their scores are
# equal, and they take the plain mean, 25. In a model nobody writes these matrices: training does.
#
# In loops, for an image of $T$ tokens, with a bias beside $U_{qkv}$ as in the authors' code:


# %%
def one_head_in_loops(z, kernel, bias):
    T, Dh = len(z), kernel.shape[1] // 3
    q, k, v = np.split(kernel, 3, axis=1)  # each (D, Dh)
    q_bias, k_bias, v_bias = np.split(bias, 3)  # each (Dh,)
    y = np.zeros((T, Dh))
    for i in range(T):  # query i
        scores = np.zeros(T)
        for j in range(T):  # key j
            scores[j] = (z[i] @ q + q_bias) @ (z[j] @ k + k_bias) / math.sqrt(Dh)
        A = np.exp(scores) / np.exp(scores).sum()  # row i of A
        for j in range(T):
            y[i] += A[j] * (z[j] @ v + v_bias)
    return y


# %% [markdown]
# The library leaves Equations 6 and 7 to `attend(q, k, v)`, which chapter 7 needs too. It divides
# $q$ by $\sqrt{D_h}$ before the product instead of the scores after it.

# %%
T, D, Dh = 5, 6, 4
rng = np.random.default_rng(6)
z, kernel, bias = (rng.normal(size=s) for s in [(T, D), (D, 3 * Dh), 3 * Dh])
y, pullback = single_head_attention(z, kernel, bias)  # (T, Dh)
assert abs(y - one_head_in_loops(z, kernel, bias)).max() < 1e-13
q, k, v = np.split(linear(z, kernel, bias)[0], 3, axis=1)  # each (T, Dh)
attended, attend_back = attend(q / math.sqrt(Dh), k, v)
assert abs(attended - y).max() < 1e-13

# %% [markdown]
# ## The way back
#
# The pullback goes through the equations from the last to the first. **Equation 7:** $y_i$ is the
# sum of $A_{ij} v_j$ over $j$. If $A_{ij}$ grows, $y_i$ moves along $v_j$, and the loss reacts by
# $dy_i · v_j$. If $v_j$ moves, every $y_i$ feels it by its weight: $v_j$ receives the sum of
# $A_{ij} dy_i$ over $i$. As for every product: the gradient times the other factor, transposed.
#
# $$ dA = dy · v^T, \qquad dv = A^T · dy $$

# %% [markdown]
# **Equation 6:** first chapter 5's softmax. With $m_i$ for the mean of row $i$ of $dA$ by the
# weights $A_{ij}$, the divided scores $S$ get $dS_{ij} = A_{ij} (dA_{ij} - m_i)$. $S$ is a product:
#
# $$ S = q · k^T / \sqrt{D_h}, \qquad dq = dS · k / \sqrt{D_h}, \qquad dk = dS^T · q / \sqrt{D_h} $$
#
# **Equation 5:** the three stand side by side, as the columns of $U_{qkv}$ do, and go through
# `linear` as in chapter 2. The library does the same, and the checker agrees. (`attend` was given
# $q / \sqrt{D_h}$ and hands back the gradient of that, $\sqrt{D_h}$ times ours; and $dS$ as well.)

# %%
dy = rng.normal(size=y.shape)  # (T, Dh)
A, _ = softmax(q @ k.T / math.sqrt(Dh))  # (T, T)
dA, dv = dy @ v.T, A.T @ dy
dS = A * (dA - (A * dA).sum(-1, keepdims=True))  # (T, T)
dq, dk = dS @ k / math.sqrt(Dh), dS.T @ q / math.sqrt(Dh)
dqkv = np.concatenate([dq, dk, dv], axis=-1)  # (T, 3 Dh)
dz, dparams = pullback(dy)
for actual, expected in zip(attend_back(dy), (dq * math.sqrt(Dh), dk, dv, dS), strict=True):
    assert abs(actual - expected).max() < 1e-13
assert abs(dz - dqkv @ kernel.T).max() < 1e-13
assert abs(dparams["bias"] - dqkv.sum(0)).max() < 1e-13
errors = minivit.gradcheck(single_head_attention, z, kernel, bias)
assert errors.worst < 1e-12

# %% [markdown]
# ## Two things that attention cannot see
#
# **The key's bias.** Add a vector $b$ to all keys. All scores of token $i$ grow by the same
# $q_i · b / \sqrt{D_h}$, and softmax forgets such a shift. So $b$ changes nothing and its gradient
# is 0. (It is the sum of all $dk$, in which each $q_i$ has as its factor a row sum of $dS$: 0.)
#
# **The order.** Shuffle the tokens, and the outputs are shuffled the same way: nothing in the
# formulas says where a token stands. That is what chapter 3 promised.

# %%
shifted = bias + np.repeat([0, 100, 0], Dh)
assert abs(single_head_attention(z, kernel, shifted)[0] - y).max() < 1e-10
assert abs(dparams["bias"][Dh : 2 * Dh]).max() < 1e-13
order = rng.permutation(T)
assert abs(single_head_attention(z[order], kernel, bias)[0] - y[order]).max() < 1e-13

# %% [markdown]
# ## The model so far
#
# Patches, positions, one head with $D_h = D = 32$, the mean, logits. The outputs take the tokens'
# place; from chapter 9 on they are added to them. `mix` is attention or `identity`.

# %%
from minivit.layers import add_positions, cross_entropy, mean_pool, patch_embedding
from minivit.training import fit_logistic_regression, train_sgd

digits = minivit.data.load_digits()
recipe = {"epochs": 20, "batch_size": 64, "learning_rate": 0.1, "seed": 0}


# %%
def model(images, params, mix=single_head_attention):
    x, embedding_back = patch_embedding(images, **params["patch_embedding"], patch_size=2)
    z, positions_back = add_positions(x, **params["positions"])  # (B, 16, 32)
    y, mix_back = mix(z, **params["attention"])
    pooled, pool_back = mean_pool(y)  # (B, 32)
    logits, head_back = linear(pooled, **params["head"])  # (B, 10)

    def pullback(dlogits):
        dpooled, dhead = head_back(dlogits)
        dz, dattention = mix_back(pool_back(dpooled))
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

    def normal(*shape):
        return rng.normal(size=shape).astype("float32")

    zeros = partial(np.zeros, dtype="float32")
    return {
        "patch_embedding": {"kernel": normal(4, 32) / math.sqrt(4), "bias": zeros(32)},
        "positions": {"table": normal(16, 32)},
        "attention": {"kernel": normal(32, 96) / math.sqrt(32), "bias": zeros(96)},
        "head": {"kernel": zeros((32, 10)), "bias": zeros(10)},
    }


def identity(z, **attention):
    return z, lambda dz: (dz, {})  # no parameters, no gradients


# %%
baseline = train_sgd(partial(model, mix=identity), create(), digits, **recipe)[-1]
params = create()
accuracy = train_sgd(model, params, digits, **recipe)[-1]
linear_accuracy = fit_logistic_regression(digits)
print(f"without attention: held-out accuracy {baseline:.1%}")
print(
    f"the model so far: held-out accuracy {accuracy:.1%} "
    f"(logistic regression on the pixels: {linear_accuracy:.1%})"
)
assert baseline < 0.3 < 0.7 < accuracy < linear_accuracy

# %% [markdown]
# Without attention, this is chapter 3's linear model, which knows the mean patch and no more. One
# head does far better, if not as well as chapter 3's squares: each token gives way to what its one
# head has read. (These 8 x 8 digits are easy for a linear model that has every pixel in its place.)
#
# Here is an image that it gets wrong, with one patch as the query. `watch` is a function that is
# shown, by name, what is worth seeing: $A$ on the way forth, $dA$ on the way back.

# %%
recorded, i = {}, 2  # the query: the third patch
mix = partial(single_head_attention, watch=recorded.__setitem__)
image, label = digits.held_out_images[212:213], digits.held_out_labels[212:213]
model(digits.held_out_images, params, mix)
largest = np.median(recorded["probabilities"].max(-1))
logits, model_back = model(image, params, mix)
print(
    f"label {label[0]}, prediction {logits[0].argmax()}; "
    f"median of the row maxima of A: ~{largest:.2f}"
)
assert largest > 0.9
model_back(cross_entropy(logits, label)[1]())
A, dA = recorded["probabilities"][0, i], recorded["dprobabilities"][0, i]  # each (16,)
dS = A * (dA - (A * dA).sum())
scores = np.log(A) - np.log(A).mean()  # up to a constant

# %%
figure, axes = plt.subplot_mosaic("iab;idc", figsize=(8.4, 5.6), layout="constrained")
axes["i"].imshow(image[0, :, :, 0], cmap="gray")
axes["i"].add_patch(plt.Rectangle((3.5, -0.45), 2, 1.95, fill=False, ec="C1", lw=3))
box = {"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.8}
maps = {"S": scores, "A": A, "dA": dA, "dS": dS}
for axis, (name, x) in zip([axes[a] for a in "abcd"], maps.items(), strict=True):
    limit, cmap = abs(x).max(), "cividis" if name == "A" else "PuOr"
    axis.imshow(x.reshape(4, 4), cmap, vmin=0 if name == "A" else -limit, vmax=limit)
    for j, number in enumerate(x.round(2) + 0):
        axis.text(j % 4, j // 4, f"{number:.2f}", ha="center", va="center", bbox=box)
    axis.set_title(name)
plt.setp(list(axes.values()), xticks=[], yticks=[])
save_figure(figure, "figures/06_one_head.png")

# %% [markdown]
# ![A digit with its query patch framed, and over the 4 x 4 patches: on top the scores S (less their
# mean) and A, below the gradients of both.](../figures/06_one_head.png)
#
# Two keys share nearly all of the weight. $dA$ says that the loss would fall if the upper one got
# less and the lower one more. It has much to say about other keys, too, but little of it reaches
# their scores: $dS$ has the factor $A$, and a key with no weight is not heard. In all held-out
# images together, half of the queries give over 90% of their weight to one token. Hence chapter 7.
#
# ## Exercises
#
# **Predict.** Set all queries to zero. What is $A$? Which of $dq$, $dk$ and $dv$ are zero?

# %%
attended, back = attend(0 * q, k, v)
dq, dk, dv, _ = back(dy)
print(f"dq {abs(dq).max():.1f}, dk {abs(dk).max():.1f}, dv {abs(dv).max():.1f}")
assert abs(attended - v.mean(0)).max() < 1e-13
assert abs(dk).max() == 0 < abs(dq).max()

# %% [markdown]
# Every weight is $1 / T$ and every output the mean value. Only $dk$ is zero: the keys wait until
# somebody asks. The queries get a gradient, so after one step of training the keys do too.
#
# **Write.** `cosine_attention(q, k, v, scale)`: a score is the cosine between query and key, times
# a learned scale (1,): no key outshouts the others by its length. To put a frame into `exercises/`:
# `python -m minivit exercise 6 --start`; `python -m minivit exercise 6` grades it; `--hint` helps.
#
# **Ablation.** Leave the positions out: `z, positions_back = x, lambda dz: (dz, {})`. This gave
# 31.7%: attention cannot see the order, nor can the mean; the digit is a bag of patches. (With the
# seeds 1 and 2 for `create` and `train_sgd` 28.9% and 31.7%; with positions, 79.7% and 81.1%.)
