# %% [markdown]
# # 17. Where the time goes
#
# Chapter 11 ended with a step that is right: forward, backward, every gradient. What must it cost,
# what does it cost, and where does the rest go? Here is the step as one first writes it, and then
# one change after the other. **Guess the factor** before each cell.
# Times are measured on the spot; yours will differ. What is compared takes turns, and runs twice,
# the second time on the clock; the median counts. In brackets: as a multiple of the last.

# %%
import collections
import contextlib
import sys
import time
from timeit import timeit
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit import arrays, cost, layers, optim, parallel, training

# %%
B, T, D, L = 32, 65, 192, 2  # images, tokens, width, blocks


def compare(seconds, calls):
    times, end = {name: [] for name in calls}, time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 3:
        for name, f in calls.items():  # let the BLAS threads go to sleep
            times[name].append(1000 * timeit(f, lambda f=f: [time.sleep(0.03), f()], number=1))
    ms = {name: np.median(each) for name, each in times.items()}
    print("~ms:", ", ".join(f"{n} {t:.2f} ({t / ms[name]:.1f})" for n, t in ms.items()))
    return ms


def floors(ms, name):
    return ms[name] / ms["large product"] / products


# %% [markdown]
# ## The floor
#
# What cannot be saved are the multiplications: $12 T D^2 + 2 T^2 D$ an image in a block (chapter
# 16), some for its 64 patches of 48 numbers and its head, and twice as many on the way back, where
# each product becomes two. A machine is fastest within one large product whose rows are shared out
# to the cores. What all would take at that rate is the *floor*, from here on the measure of a step.


# %%
def create_problem(width=192, image_size=32, patch_size=4, dropout=0.0):
    config = minivit.ViTConfig(
        image_size,
        patch_size,
        classes=10,
        width=width,
        depth=2,
        heads=3,
        mlp_width=4 * width,
        dropout=dropout,
    )
    model, rng = minivit.ViT.create(config), np.random.default_rng(17)
    model.params["head"]["kernel"][:] = 0.1 * rng.normal(size=(width, 10))  # not zero
    images = rng.standard_normal((32, *config.image_size, 3), dtype="float32")
    return model, images, rng.integers(10, size=32)


model, images, labels = create_problem()
square = np.random.default_rng(0).standard_normal((1024, 1024), dtype="float32")
parts = np.array_split(square, parallel.cpu_count())
large = {"large product": lambda: list(parallel.map_shards(lambda rows: rows @ square, parts))}
products = 3 * B * (64 * 48 * D + L * (12 * T * D**2 + 2 * T**2 * D) + 10 * D) / 1024**3
assert products == 1.5 * cost.total_cost(cost.layer_costs(model.config, B)).forward / 1024**3
print(f"floor: {products:.2f} large products")

# %% [markdown]
# ## As one first writes it
#
# A linear layer that multiplies what comes, GELU as it is written, `mean` and `sum` where formulas
# have them. Each takes the place of the library's function of its name. One thread does it all.


# %%
def naive_linear(x, kernel, bias):  # x (B, T, D), kernel (D, E)
    def pullback(dy):
        axes = tuple(range(dy.ndim - 1))
        dkernel = (x.swapaxes(-1, -2) @ dy).sum(axes[:-1])  # sum of B matrices (D, E)
        return dy @ kernel.T, {"kernel": dkernel, "bias": dy.sum(axes)}

    return x @ kernel + bias, pullback


def naive_gelu(x, kind="tanh"):
    a, b = (2 / np.pi) ** 0.5, 0.044715
    cdf = 0.5 * (1 + np.tanh(a * (x + b * x * x * x)))  # Φ(x)
    return x * cdf, lambda dy: dy * (cdf + x * cdf * (1 - cdf) * 2 * a * (1 + 3 * b * x * x))


# %%
naive_sums = {
    "sum_last": lambda x: x.sum(-1, keepdims=True),  # (..., D) -> (..., 1)
    "mean_last": lambda x: x.mean(-1, keepdims=True),
    "dot_rows": lambda a, b: (a * b).sum(-1, keepdims=True),
    "dot_vector": lambda x, w: (x * w).sum(-1, keepdims=True),
    "sum_leading": lambda x: x.reshape(-1, x.shape[-1]).sum(0),
}
naive = {"linear": naive_linear, "gelu": naive_gelu} | naive_sums


def step(replacements=(), inputs=(model, images, labels), seed=None, shards=1, **options):
    with contextlib.ExitStack() as stack:
        for path in [p for p in sys.modules if p.startswith(("minivit.layers", "minivit.models"))]:
            for name in set(replacements) & set(vars(sys.modules[path])):
                stack.enter_context(mock.patch.object(sys.modules[path], name, replacements[name]))
        options = training.StepOptions(shards=shards, **options)
        return training.loss_and_gradients(*inputs, options, seed=seed)


# %% [markdown]
# ## Memory that comes and goes
#
# A step makes hundreds of arrays and drops them. What falls free at the end of its heap, glibc
# gives back to the system. When the next step asks for it, the first touch of each 4096 bytes is a
# page fault: the system has to fill them with zeros. By `mallopt`, `parallel.configure_malloc` asks
# glibc to keep up to 1 GB. It does so at the first step, but here it is held back for a moment.

# %%
one_thread = parallel.single_threaded_blas()
calls = {
    "64 MB allocated and freed": lambda: [np.ones(1 << 18, "float32") for _ in range(64)],
    "naive step": one_thread(lambda: step(naive)),
}
with mock.patch.object(parallel, "configure_malloc"):
    released = compare(1, calls)
parallel.configure_malloc()
reused = compare(1, calls)
ratios = ", ".join(f"{released[n] / reused[n]:.1f} ({n})" for n in calls)
print("~time with memory returned to the system / with memory reused:", ratios)
first, second = (minivit.flatten(step(replacements)[1]) for replacements in (naive, {}))
assert all(abs(first[n] - second[n]).max() < 1e-5 for n in first)  # naive gradients are correct

# %% [markdown]
# ## Rows, and ones
#
# `x @ kernel` for a batch is $B$ products, each of which prepares the kernel anew; the gradient is
# $B$ whole kernels, to be added up. But a kernel treats all tokens alike: $B T$ rows, one product.
# A `mean` or `sum` of each row is a product as well, with ones, and BLAS reads memory faster.

# %%
x, dy = (np.random.default_rng(2).standard_normal((B, T, n), dtype="float32") for n in (D, 4 * D))
kernel = model.params["blocks"][0]["mlp"]["hidden"]["kernel"]  # (D, M)
rows, drows, ones = x.reshape(-1, D), dy.reshape(-1, 4 * D), np.ones(D, "float32")
with parallel.single_threaded_blas():  # so that only the shapes differ
    compare(0.4, {"x @ kernel": lambda: x @ kernel, "rows @ kernel": lambda: rows @ kernel})
    compare(0.4, {"x.T @ dy": lambda: (x.mT @ dy).sum(0), "rows": lambda: rows.T @ drows})
    compare(0.4, {"mean(-1)": lambda: rows.mean(-1), "@ ones": lambda: rows @ ones / D})

# %% [markdown]
# ## GELU, block by block
#
# GELU has no matrix products, and yet it is long: some ten operations on the widest array, $B T M$
# numbers, which for each comes from memory and goes back. `arrays.map_blocks` takes $2^{16}$
# numbers through all while they are in the cache. The backward pass needs tanh again: the naive one
# keeps an array for it, the library's computes it twice. (By $Φ = y / x$, too few digits of
# $1 - Φ$ remain.)

# %%
compare(
    1,
    {
        "one pass per operation": lambda: naive_gelu(dy)[1](dy),  # any array (B, T, M)
        "in place": mock.patch.object(arrays, "BLOCK_SIZE", dy.size)(
            lambda: layers.gelu(dy)[1](dy)
        ),
        "in place, in blocks": lambda: layers.gelu(dy)[1](dy),
    },
)

# %% [markdown]
# ## Cores: inside each product, or around the step
#
# BLAS would put its threads inside each product (`shards: 1`), and in norms, softmax and GELU all
# cores but one wait. `map_shards` takes each shard of a batch through the whole step in a thread of
# its own, with one BLAS thread; NumPy lets go of Python's lock while it computes. One a core keeps
# all busy; more are smaller and fit the cache; too many mean small products, and more gradients to
# add up. AdamW's update goes over threads too, in blocks of the one vector of all parameters.

# %%
shards = max(2, model.choose_shard_count(B))  # the default of `train`, but at least 2
compare(1, {f"shards: {n}": lambda n=n: step(shards=n) for n in dict.fromkeys([1, 32, 8, shards])})
larger = minivit.ViT.create("ViT-Ti/4", image_size=32, classes=10)
adamw = training.AdamW(minivit.tree.pack(larger.params))
g = np.random.default_rng(3).standard_normal(adamw.parameters.vector.size, dtype="float32")
in_one_block = mock.patch.object(optim, "BLOCK_SIZE", g.size)
compare(
    1,
    {
        "update in one block": in_one_block(lambda: adamw.update(g, 1e-3, threads=1)),
        "in blocks": lambda: adamw.update(g, 1e-3, threads=1),
        "all threads": lambda: adamw.update(g, 1e-3),
    },
)

# %% [markdown]
# **Three traps.** Shards differ in size: no mean of their means, but $1/B$ of the *whole* batch for
# each image. Sums of floats depend on the order: gradients are added in that of the shards,
# whichever is ready first. Dropout draws from `default_rng([seed, step, shard])`, not from one
# generator that all share. Then two or more shards give the same bits on any number of threads.

# %%
thirds = parallel.batch_slices(10, 3)  # 3, 3 and 4 images
losses = [step(inputs=(model, images[p], labels[p]))[0] for p in thirds]
whole, _ = step(inputs=(model, images[:10], labels[:10]))
assert abs(np.average(losses, weights=[3, 3, 4]) - whole) < 1e-5 < abs(np.mean(losses) - whole)
options = {"inputs": create_problem(dropout=0.1), "shards": 5, "seed": (0, 1)}
first, second = (minivit.flatten(step(threads=n, **options)[1]) for n in (1, 2))
assert all(np.array_equal(first[name], second[name]) for name in first)

# %% [markdown]
# ## The balance
#
# First the library's step by kinds of work, on the clock of one thread (biases count as products).
# Then the ladder to it: a bar has one change more than that above, or shards for BLAS's threads.

# %%
seconds = collections.Counter()


def timed(kind, function):
    def run(*args, **kwargs):
        start = time.thread_time()
        result = function(*args, **kwargs)
        seconds[kind] += time.thread_time() - start
        pair = isinstance(result, tuple) and callable(result[1])
        return (result[0], timed(kind, result[1])) if pair else result

    return run


kinds = {
    "linear": "products",
    "matmul": "products",
    "gelu": "GELU",
    "layer_norm": "norms",
    "softmax": "softmax",
}
timers = {name: timed(kind, getattr(layers, name, arrays.matmul)) for name, kind in kinds.items()}

# %%
for _ in range(5):
    timed("step", step)(timers, shards=shards, threads=1)
    one_thread(timed("large product", lambda: square @ square))()
seconds["other"] = seconds["step"] - sum(seconds[kind] for kind in set(kinds.values()))
balance = {kind: floors(seconds, kind) for kind in [*kinds.values(), "other"]}
calls = {
    "memory": one_thread(lambda: step(naive)),
    "rows": one_thread(lambda: step({"gelu": naive_gelu} | naive_sums)),
    "ones": one_thread(lambda: step({"gelu": naive_gelu})),
    "GELU": one_thread(step),
    "BLAS threads": step,
    "shards": lambda: step(shards=shards),
}
times = compare(3, calls | large)
ladder = {"naive": floors(times, "memory") * released["naive step"] / reused["naive step"]}
ladder |= {name: floors(times, name) for name in calls}

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
for axis, bars in zip(axes, (balance, ladder), strict=True):
    print("~floors:", ", ".join(f"{name} {ratio:.2f}" for name, ratio in bars.items()))
    axis.barh(list(bars)[::-1], list(bars.values())[::-1])
    axis.axvline(1, color="k", ls="--")
figure.supxlabel("time, in floors", fontsize=10)
minivit.analysis.save_figure(figure, "figures/17_where_the_time_goes.png")

# %% [markdown]
# ![Left, the library's step by kinds of work. Right, from the naive step to it; only the last two
# bars use all cores, as the floor does.](../figures/17_where_the_time_goes.png)
#
# The left sums up to less than the last bar on the right: threads also wait for each other.
# **What did not pay**, and was taken out again: huge pages; GELU's slope computed on the way forth;
# contiguous copies of q, k and v; more shards than the cache asks for.
#
# ## Exercises
#
# **Predict.** What do threads gain for small models: 17 tokens, and a width of 192, 48, or 12?

# %%
for width in 192, 48, 12:
    inputs = create_problem(width, image_size=8, patch_size=2)
    compare(
        0.4,
        {
            f"width {width}, one thread": lambda x=inputs: step(inputs=x, shards=2, threads=1),
            "all threads": lambda x=inputs: step(inputs=x, shards=2),
        },
    )

# %% [markdown]
# Less and less, until they lose. Between two operations a thread holds Python's lock, so that
# one alone goes on: with small arrays, that is much of the time.
#
# **Write.** `attention_in_blocks(q, k, v, block)`: Equations 6 and 7 with `block` columns of $A$ at
# a time, so that memory grows with $T$, not $T^2$. `python -m minivit exercise 17 --start` puts a
# frame into `exercises/`; `python -m minivit exercise 17` grades it; `--hint` helps.
#
# **Ablation.** Patch `parallel.single_threaded_blas` with `contextlib.nullcontext` for
# `step(shards=4)`: BLAS's threads fight. It took 3 to 7 times as long, on the machine this page was
# made on.
