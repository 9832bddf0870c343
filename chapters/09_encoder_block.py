# %% [markdown]
# # 9. The encoder block
#
# How are attention (chapter 7) and the MLP (chapter 8) joined into something that can be stacked 12
# or 32 times? For each layer $l$ from 1 to $L$ the paper writes, in Equations 2 and 3:
#
# $$ z'_l = \mathrm{MSA}(\mathrm{LN}(z_{l-1})) + z_{l-1} \qquad (2) $$
#
# $$ z_l = \mathrm{MLP}(\mathrm{LN}(z'_l)) + z'_l \qquad (3) $$
#
# Each half computes something from the normed tokens, the *branch*, and adds it to the tokens as
# they were. The plain $+ z$ is the *residual connection*. What is it for?

# %%
import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure
from minivit.layers import layer_norm, linear, mean_pool, mlp, self_attention
from minivit.models import embed, encoder_block
from minivit.training import fit_logistic_regression, train_sgd


# %%
def affine(rng, n, m):
    kernel = (rng.normal(size=(n, m)) / n**0.5).astype("float32")
    return {"kernel": kernel, "bias": np.zeros(m, "float32")}


def create_block(rng, D, M):
    attention = {"qkv": affine(rng, D, 3 * D), "out": affine(rng, D, D)}
    hidden = {"hidden": affine(rng, D, M), "out": affine(rng, M, D)}
    norms = [{"scale": np.ones(D, "float32"), "bias": np.zeros(D, "float32")} for _ in range(2)]
    return {"norm1": norms[0], "attention": attention, "norm2": norms[1], "mlp": hidden}


# %%
# One image, token by token. Only attention needs all tokens at once.
def block_in_loops(z, params, heads):  # z (T, D)
    normed = np.array([layer_norm(token, **params["norm1"])[0] for token in z])
    attn_out = self_attention(normed[None], **params["attention"], heads=heads)[0][0]
    mid = np.array([z[t] + attn_out[t] for t in range(len(z))])  # (2)
    normed = np.array([layer_norm(token, **params["norm2"])[0] for token in mid])
    return np.array([mid[t] + mlp(normed[t], **params["mlp"])[0] for t in range(len(z))])  # (3)


# %% [markdown]
# The library's `encoder_block` reads what is no array, here the number of heads, in a `config`.
# The parameters are moved away from ones and zeros, which could hide a mistake.

# %%
rng = np.random.default_rng(9)
config = minivit.ViTConfig(image_size=8, patch_size=2, channels=1, width=8, heads=2)
z, params = rng.normal(size=(2, 5, 8)), create_block(rng, D=8, M=12)
for leaf in minivit.flatten(params).values():
    leaf += 0.5 * rng.normal(size=leaf.shape)
out, pullback = encoder_block(z, params, config)
assert abs(out - [block_in_loops(tokens, params, heads=2) for tokens in z]).max() < 1e-12

# %% [markdown]
# ## The pullback of a sum
#
# Let $y = z + f(z)$. Move $z$ by a small $δ$: then $y$ moves by $δ + J δ$, where $J$ is the matrix
# of $f$'s derivatives. The loss reacts with $dy · δ + dy · J δ$, which is $(dy + J^T dy) · δ$. So
#
# $$ dz = dy + J^T dy $$
#
# The sum hands $dy$ to both its terms unchanged, and $z$, used twice, adds up what comes back. In
# the branch, attention or the MLP was last, so its pullback is first; then comes the norm's.


# %%
def pre_norm(z, norm, branch, residual=1):  # residual=0 omits the skip connection
    normed, norm_back = layer_norm(z, **norm)
    y, branch_back = branch(normed)

    def pullback(dy):
        dnormed, dbranch = branch_back(dy)
        dz, dnorm = norm_back(dnormed)
        return residual * dy + dz, dnorm, dbranch

    return residual * z + y, pullback


# %%
def block(z, params, heads, sublayer=pre_norm, residual=1):
    mid, first_back = sublayer(
        z,
        params["norm1"],
        lambda x: self_attention(x, **params["attention"], heads=heads),
        residual,
    )
    out, second_back = sublayer(mid, params["norm2"], lambda x: mlp(x, **params["mlp"]), residual)

    def pullback(dout):
        dmid, dnorm2, dmlp = second_back(dout)
        dz, dnorm1, dattention = first_back(dmid)
        return dz, {"norm1": dnorm1, "attention": dattention, "norm2": dnorm2, "mlp": dmlp}

    return out, pullback


# %%
dout = rng.normal(size=out.shape)
assert abs(block(z, params, heads=2)[0] - out).max() < 1e-12
assert abs(block(z, params, heads=2)[1](dout)[0] - pullback(dout)[0]).max() < 1e-12
errors = minivit.gradcheck(lambda z, params: encoder_block(z, params, config), z, params)
print(f"{len(errors)} arguments, worst error {errors.worst:.0e}")
assert errors.worst < 1e-12

# %% [markdown]
# It is easy to add $dy$ one line too early. Then the residual's share goes back through a norm that
# it did not pass on the way forth. The shapes agree; only the checker objects.


# %%
def misplaced_residual(z):
    normed, norm_back = layer_norm(z, **params["norm2"])
    y, mlp_back = mlp(normed, **params["mlp"])
    return z + y, lambda dy: norm_back(dy + mlp_back(dy)[0])[0]  # correct: dy + norm_back(...)


assert minivit.gradcheck(misplaced_residual, z).worst > 0.1

# %% [markdown]
# ## Norm first, or norm last
#
# The first Transformer, and after it the language model BERT, took the norm of the sum,
# $\mathrm{LN}(z + f(z))$: *post-norm*, where every gradient must pass every norm. The ViT is
# *pre-norm*. There each half adds $J^T dy$ to $dy$, so the gradient of each $z_l$ is a sum, and one
# of its terms is $dz_L$ itself: it reaches each layer as it was, whatever the branches do.


# %%
def post_norm(z, norm, branch, residual=1):
    y, branch_back = branch(z)
    out, norm_back = layer_norm(residual * z + y, **norm)

    def pullback(dout):
        dy, dnorm = norm_back(dout)
        dz, dbranch = branch_back(dy)
        return residual * dy + dz, dnorm, dbranch

    return out, pullback


# %% [markdown]
# A random gradient enters 24 untrained blocks at the top. At each block we note the length of two
# gradients, relative to the one that entered: its input's, and that of the columns of $U_{qkv}$ for
# queries and keys. (Geometric means over eight draws. The *bare* stacks have no residuals.)


# %%
def gradient_norms(seed, sublayer, residual, D=32):
    rng = np.random.default_rng(seed)
    z, backs, norms = rng.normal(size=(2, 16, D)), [], []
    for _ in range(24):
        z, back = block(z, create_block(rng, D, 2 * D), 4, sublayer, residual)
        backs.append(back)
    first = dz = rng.normal(size=z.shape)
    for back in reversed(backs):
        dz, dparams = back(dz)
        dqk = dparams["attention"]["qkv"]["kernel"][:, : 2 * D]
        norms.append([np.linalg.norm(d) / np.linalg.norm(first) for d in (dz, dqk)])
    return np.log(norms[::-1])  # (24, 2)


kinds = {
    "pre-norm": (pre_norm, 1, "C0-"),
    "post-norm": (post_norm, 1, "C1--"),
    "pre-norm, no skip": (pre_norm, 0, "C2-."),
    "post-norm, no skip": (post_norm, 0, "C3:"),
}

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
norms = {}
for name, (sublayer, residual, style) in kinds.items():
    norms[name] = np.exp(
        np.mean([gradient_norms(seed, sublayer, residual) for seed in range(8)], axis=0)
    )
    for axis, line in zip(axes, norms[name].T, strict=True):
        axis.plot(range(1, 25), line, style, label=name)
        axis.set(xlabel="block (the gradient enters at 24)", yscale="log")
axes[0].set(ylabel="gradient norm, block input", ylim=(0.03, 30))
axes[1].set(ylabel="gradient norm, query and key kernels")
axes[0].legend(fontsize=8)
save_figure(figure, "figures/09_encoder_block.png")
assert min(lines[:, 0].min() for lines in norms.values()) > 0.05
assert norms["pre-norm, no skip"][6:, 1].max() < 1e-12 > norms["post-norm, no skip"][6:, 1].max()
assert 1e-8 < norms["post-norm"][23, 1] < 1e-3 < 0.1 < norms["pre-norm"][:, 1].min()

# %% [markdown]
# ![Gradients in four kinds of stacks of 24 blocks. Left, none vanishes. Right, the bare stacks' are
# rounding error from block 7 on, and post-norm's fall slowly](../figures/09_encoder_block.png)
#
# On the left nothing vanishes: each norm brings the tokens back to one scale, and gradients with
# them. (In pre-norm each block adds some.) On the right, in bare stacks, queries and keys get no
# gradient from block 7 on. Attention averages. After a few averages of averages all tokens of an
# image are the same, and who attends to whom no longer matters. In post-norm, where each norm
# shrinks the residual path, this comes slowly. In pre-norm a token keeps what it was.

# %% [markdown]
# ## The model so far
#
# Patches with positions (chapter 3; the library's `embed`), blocks, mean, head. (These digits are
# easy for a linear model on the raw pixels.)

# %%
sizes = minivit.ViTConfig(8, patch_size=2, channels=1, width=32, heads=4, pooling="mean")


def stack(z, blocks):
    backs = []
    for params in blocks:
        z, back = encoder_block(z, params, sizes)
        backs.append(back)

    def pullback(dz):
        dblocks = []
        for back in reversed(backs):
            dz, dblock = back(dz)
            dblocks.append(dblock)
        return dz, dblocks[::-1]

    return z, pullback


# %%
def model(images, params):
    tokens, embed_back = embed(images, params, sizes)
    z, stack_back = stack(tokens, params["blocks"])
    y, pool_back = mean_pool(z)
    logits, head_back = linear(y, **params["head"])

    def pullback(dlogits):
        dy, dhead = head_back(dlogits)
        dtokens, dblocks = stack_back(pool_back(dy))
        dimages, dembed = embed_back(dtokens)
        return dimages, {**dembed, "blocks": dblocks, "head": dhead}

    return logits, pullback


# %%
digits = minivit.data.load_digits()
baseline = f"(logistic regression on the pixels: {fit_logistic_regression(digits):.1%})"
for L, bound in ((1, 0.88), (4, 0.93)):
    rng = np.random.default_rng(0)
    params = {"patch_embedding": affine(rng, 4, 32)}
    params["positions"] = {"table": rng.normal(size=(16, 32)).astype("float32")}
    params["blocks"] = [create_block(rng, 32, 64) for _ in range(L)]
    params["head"] = {"kernel": np.zeros((32, 10), "float32"), "bias": np.zeros(10, "float32")}
    accuracy = train_sgd(
        model, params, digits, epochs=20, batch_size=64, learning_rate=0.1, seed=0
    )[-1]
    print(f"the model so far: held-out accuracy {accuracy:.1%}, with L = {L} {baseline}")
    assert accuracy > bound

# %% [markdown]
# One block is no better than chapter 8's attention and MLP without norms and residuals (95.0%).
# But it can be stacked. The ablation below measures four blocks without the residuals.
#
# ## Exercises
#
# **Predict.** Put zeros into the last layer of both branches, `out` of attention and `out` of the
# MLP. What does the block compute, what is its pullback, and which parameters get a gradient?

# %%
z, params = rng.normal(size=(2, 5, 8)), create_block(rng, D=8, M=12)
params["attention"]["out"]["kernel"][:] = params["mlp"]["out"]["kernel"][:] = 0
out, pullback = encoder_block(z, params, config)
dz, dparams = pullback(dout)
assert np.array_equal(out, z)
assert np.array_equal(dz, dout)
print([name for name, leaf in minivit.flatten(dparams).items() if leaf.any()])

# %% [markdown]
# The block is the identity, and so is its pullback. Only the two `out` layers learn, at first.
#
# **Write.** `layer_scale(z, branch, gain)`: $z + \mathrm{gain} · \mathrm{branch}$, with a learned
# gain for each of the $D$ features. Begun near zero, it lets a deep stack begin near the identity.
# `python -m minivit exercise 9 --start` puts a frame into `exercises/`; `python -m minivit
# exercise 9` grades it; `--hint` helps.
#
# **Ablation.** In `stack`, call `block(z, params, 4, pre_norm, 0)`: no residuals. Four blocks then
# gave 89.7% of the digits instead of 96.1%, and 12 blocks 8.9%, no better than guessing. Four
# blocks of `post_norm` with the residual gave 96.9%: at this depth it does no harm.
