"""`cost`: the ledger of a model's products and memory, by formula and, on request, measured."""

import argparse

from .. import cost as ledger
from .. import devices
from ..api import ViT
from ..models import ViTConfig
from ..parallel import cpu_count
from .arguments import fail, given


def cost(args: argparse.Namespace) -> int:
    """Print what each layer of a model costs; with --measure also what it took here."""
    fields = given(args, ViTConfig)
    if fields.get("classes") == 0:
        fields["classes"] = None
    try:
        config = ViTConfig.named(args.model, **fields)
    except ValueError as error:
        args.usage_error(str(error))
    rows = ledger.rows(config, args.batch_size, args.dtype)
    needs = predict(args, config, args.batch_size)
    print(title(args, config), ledger.LEGEND, "", ledger.predicted(rows), "", sep="\n")
    print(work(rows, args.batch_size), ledger.summary(needs, args.dtype, args.optimiser), sep="\n")
    if args.csv:  # before minutes of measuring
        ledger.write_csv(args.csv, rows)
    if not args.measure:
        return 0
    reason = refusal(args, config, needs)
    if reason:
        return fail(reason)
    times = measured(args, config, rows, needs)
    if args.csv:
        ledger.write_csv(args.csv, rows, times)
    return 0


def title(args: argparse.Namespace, config: ViTConfig) -> str:
    """What the ledger is of."""
    H, W = config.image_size
    tells = f"{config.classes:,} classes" if config.classes else "no classifier"
    shape = f"{args.batch_size:,} x {H} x {W} x {config.channels}"
    return f"{args.model}, {tells}, {args.dtype}; images {shape}, {config.tokens:,} tokens each\n"


def work(rows: list[ledger.Row], batch: int) -> str:
    """The products of one image, as the literature gives them, and of a step."""
    total = ledger.totals(rows)
    image, step = total.forward / batch, total.forward + total.backward
    macs = f"{ledger.figure(image, 'FLOP')}, or {ledger.figure(image / 2, 'MAC')}"
    return f"forward of an image: {macs}; step of the batch: {ledger.figure(step, 'FLOP')}\n"


def predict(args: argparse.Namespace, config: ViTConfig, batch: int) -> ledger.Memory:
    """The memory of a batch of this size."""
    return ledger.memory(
        config,
        batch,
        args.dtype,
        optimiser=args.optimiser,
        shards=args.shards or (1 if args.device == "gpu" else None),
        threads=1 if args.device == "gpu" else args.threads,
    )


def refusal(args: argparse.Namespace, config: ViTConfig, needs: ledger.Memory) -> str | None:
    """Why this cannot be measured here, if it cannot."""
    on_gpu = args.device == "gpu"
    if args.dtype == "float16" and not on_gpu:
        return "NumPy has no fast products of float16: --measure takes float32 or float64"
    available = devices.available_gpu_memory() if on_gpu else ledger.available_memory()
    if available is None or needs.measuring <= available:
        return None
    most = ledger.fits(available, args.batch_size, lambda B: predict(args, config, B).measuring)
    fits = f"--batch-size {most} fits" if most else "not even one image fits"
    figures = [ledger.figure(size, "B") for size in (needs.measuring, available)]
    return f"--measure would need {figures[0]} of memory, of which {figures[1]} are free: {fits}"


def measured(
    args: argparse.Namespace,
    config: ViTConfig,
    rows: list[ledger.Row],
    needs: ledger.Memory,
) -> list[ledger.Measured]:
    """Print the table of what each layer took, line by line, then the model as a whole."""
    model, batch = ViT.create(config, dtype=args.dtype, device=args.device), args.batch_size
    where = "on the GPU" if args.device == "gpu" else "on one thread"
    print(f"\nmeasured here, the batch in one piece, {where}; rate: FLOP or entries a second")
    print(f"\n{ledger.measured_head()}")
    times = []
    for row, layer in zip(rows, ledger.measure(model, batch), strict=True):
        print(ledger.measured(row, layer), flush=True)
        times.append(layer)
    print(ledger.measured(*together(rows, times)), "\n", sep="", flush=True)
    kept = ledger.figure(ledger.kept_by_whole(model, batch), "B")
    predicted = ledger.figure(needs.kept, "B")
    print(f"kept after a forward of the whole model: {kept}, predicted {predicted}", flush=True)
    counts = ledger.counted_flop(config, args.dtype)
    expected = ledger.totals(ledger.rows(config, counts.images, args.dtype))
    print(f"counted in {counts.images} images: {counts.forward:,} FLOP forward,", end=" ")
    print(f"{counts.backward:,} backward;")
    print(f"  predicted {expected.forward:,} and {expected.backward:,}", flush=True)
    if config.classes is not None:
        print(step(args, model, rows, needs))
    return times


def together(
    rows: list[ledger.Row], times: list[ledger.Measured]
) -> tuple[ledger.Row, ledger.Measured]:
    """The totals, predicted and measured."""
    sums = [
        sum(row.times * layer[i] for row, layer in zip(rows, times, strict=True)) for i in (1, 2, 3)
    ]
    return ledger.totals(rows), ledger.Measured("total", *sums)


def step(args: argparse.Namespace, model: ViT, rows: list[ledger.Row], needs: ledger.Memory) -> str:
    """How long a step in shards took, at what rate, and how much memory beside the parameters."""
    seconds, peak = ledger.measure_step(model, args.batch_size, args.shards, args.threads)
    total, threads = ledger.totals(rows), args.threads or cpu_count()
    rate = ledger.figure((total.forward + total.backward) / seconds, "FLOP/s")
    side_by_side = "" if args.device == "gpu" else f" on {threads} threads"
    cut = f"{needs.shards} shards{side_by_side}" if needs.shards > 1 else "one piece"
    most = ledger.figure(needs.step, "B")
    peaks = f"peak {ledger.figure(peak, 'B')}, predicted {most} at most and Python's own objects"
    return f"a step, in {cut}: {seconds:.3f} s, {rate};\n  {peaks}"
