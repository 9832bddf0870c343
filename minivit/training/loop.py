"""The training loop: epochs, evaluation, log, checkpoints, and resuming."""

import dataclasses
import math
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from ..api import ViT
from ..arrays import Array, device_of, to_host
from ..data import Dataset
from ..optim import clip_by_global_norm
from ..terminal import print_message, progress_bar
from ..weights import CHECKPOINT
from .batches import check_augmentation, count_batches, iterate_batches, prefetch, upload_batches
from .evaluate import Score, evaluate
from .lock import lock_folder
from .log import COLUMNS, LOG, STEP_COLUMNS, STEP_LOG, write_log
from .progress import read_progress
from .recipe import Recipe
from .run import ResumeError, TrainingRun, create_run, restore_run, save_checkpoint
from .schedules import schedule_learning_rate
from .signals import Interrupted, handle_signals
from .step import batch_gradients, check_has_head

STEP_BAR_DELAY = 3  # seconds after which an epoch shows a progress bar of its steps
OUTPUTS = (LOG, STEP_LOG, CHECKPOINT)
# The number of a step, the learning rate, the loss, the correct images, and all images.
Unread = tuple[int, float, Any, Any, int]
LOSS_INTERVAL = 50  # steps between two copies of the loss to the host; a copy waits for the GPU


def train(
    model: ViT, dataset: Dataset, recipe: Recipe, folder: str | Path, *, threads: int | None = None
) -> Score:
    """Train a model from its current parameters and write `model.npz` and the logs.

    A share of the training images is set aside for validation, after every epoch; the held-out
    images are evaluated once, at the end. The logs are `log.csv` and, by step, `steps.csv`.

    The same model, data, recipe and number of shards give the same bits. Each epoch ends with a
    checkpoint, from which `resume` continues. After Ctrl-C, SIGTERM or SIGHUP, the current step is
    completed and a checkpoint is written. A second signal stops at once.

    Parameters
    ----------
    model : ViT
        Trained in place.
    dataset : Dataset
        Images that fit the model, see `data.resize_dataset`.
    recipe : Recipe
    folder : str or Path
        Created if necessary.
    threads : int, optional
        Number of CPU threads. By default all cores.

    Returns
    -------
    Score
        Loss and accuracy of the held-out images after the last epoch.

    Raises
    ------
    ValueError
        If the model has no classifier, or the recipe does not fit the images.
    FloatingPointError
        If the loss becomes NaN or infinite.
    OSError
        If the folder cannot be written.
    LockedError
        A RuntimeError. Another process is training in the folder.
    Interrupted
        A KeyboardInterrupt. A signal stopped the training.

    Examples
    --------
    >>> dataset = minivit.data.load_digits(n=64)
    >>> config = minivit.ViTConfig(
    ...     image_size=8, patch_size=2, channels=1, classes=10, width=16, depth=1, heads=2,
    ...     mlp_width=32
    ... )
    >>> score = train(ViT.create(config), dataset, Recipe(epochs=1), folder)
    >>> (folder / "model.npz").exists(), 0 <= score.accuracy <= 1
    (True, True)
    """
    check_has_head(model)
    check_augmentation(dataset, recipe)
    if recipe.shards is None:
        part = math.ceil(min(recipe.batch_size, len(dataset.images)) / recipe.grad_accumulation)
        recipe = dataclasses.replace(recipe, shards=model.choose_shard_count(part, threads))
    with lock_folder(folder, OUTPUTS):
        run = create_run(model, dataset, recipe, Path(folder), threads)
        save_checkpoint(run)
        return _train_epochs(run)


def resume(
    folder: str | Path, model: ViT, dataset: Dataset, *, threads: int | None = None
) -> Score:
    """Continue an interrupted run. The result has the same bits as without interruption.

    `model` has been loaded from the checkpoint in the folder. Raises ResumeError if the run is
    complete, ValueError if the data set differs in its name, classes, files or labels,
    FileNotFoundError if there is no checkpoint, and the exceptions of `train`.
    """
    folder = Path(folder)
    path = folder / CHECKPOINT
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with lock_folder(folder, OUTPUTS):
        progress = read_progress(folder)
        if progress is None or progress.complete:
            raise ResumeError(f"the training run of {path} is complete: there is nothing to resume")
        run = create_run(model, dataset, progress.recipe, folder, threads)
        restore_run(run, progress)
        return _train_epochs(run)


def _train_epochs(run: TrainingRun) -> Score:
    epochs = run.recipe.epochs
    write_log(run.folder / LOG, run.rows)
    with (
        handle_signals(run.signals),
        progress_bar(total=epochs, initial=run.epoch, unit="epoch") as bar,
    ):
        while run.epoch < epochs:
            loss, accuracy, learning_rate = _train_epoch(run)
            score = Score(math.nan, math.nan)
            try:
                with run.signals.immediate():
                    if run.validation is not None:
                        score = evaluate(run.result, *run.validation)
                        _check_finite(score.loss, "validation loss", run)
                    if run.epoch + 1 == epochs:
                        d = run.dataset
                        run.test = evaluate(run.result, d.held_out_images, d.held_out_labels)
                        _check_finite(run.test.loss, "held-out loss", run)
            except Interrupted as interrupt:
                run.test = None
                save_checkpoint(run)
                t, path = run.optimiser.t, run.folder / CHECKPOINT
                raise Interrupted(interrupt.number, f"{path} was saved after step {t}") from None
            run.epoch += 1
            run.batches, run.images, run.loss, run.correct = 0, 0, 0.0, 0
            row = [run.epoch, run.optimiser.t, learning_rate, loss, accuracy, *score, run.seconds]
            run.rows.append(dict(zip(COLUMNS, row, strict=True)))
            write_log(run.folder / LOG, run.rows)  # the log must not be older than the checkpoint
            save_checkpoint(run)
            line = f"loss {loss:.4f}, accuracy {accuracy:.2%}"
            if run.validation is not None:
                line += f", validation loss {score.loss:.4f}, accuracy {score.accuracy:.2%}"
            bar.set_postfix_str(line, refresh=False)
            bar.update()
            if bar.disable:  # not a terminal: print plain lines
                print_message(f"epoch {run.epoch}/{epochs}: {line}, {run.seconds:.0f} s")
    if run.ema is not None:
        run.optimiser.parameters.vector[:] = run.ema.parameters.vector
    run.signals.check()  # for a signal after the last step
    assert run.test is not None  # all epochs are complete
    return run.test


def _train_epoch(run: TrainingRun) -> tuple[float, float, float]:
    """Train until the end of the epoch or a signal.

    Return the mean loss and accuracy of the training images, and the learning rate.
    """
    recipe, steps = run.recipe, count_batches(run.dataset, run.recipe)
    batches = iterate_batches(run.dataset, recipe, run.epoch + 1, skip=run.batches)
    if run.uploader is not None:
        batches = upload_batches(batches, len(run.dataset.classes), run.uploader)
    if run.uploader is not None or run.options.shards != 1:  # one shard uses all BLAS threads
        batches = prefetch(batches)
    unread: list[Unread] = []
    with (
        closing(batches),
        progress_bar(
            total=steps, initial=run.batches, unit="step", leave=False, delay=STEP_BAR_DELAY
        ) as bar,
    ):
        started, before = time.perf_counter(), run.images
        for images, labels in batches:
            t = run.optimiser.t
            learning_rate = learning_rate_of_step(recipe, steps, t)
            step = batch_gradients(run.model, images, labels, run.options, seed=(recipe.seed, t))
            unread.append((t + 1, learning_rate, step.loss, step.correct, len(images)))
            if device_of(step.loss) == "cpu" or len(unread) == LOSS_INTERVAL:
                _read_steps(unread, run)
                speed = (run.images - before) / (time.perf_counter() - started)
                mean = run.loss / run.images
                bar.set_postfix_str(f"loss {mean:.4f}, {speed:.0f} images/s", refresh=False)
            _update(run, step.gradients.vector, learning_rate)
            run.batches += 1
            bar.update()
            if run.signals.received is not None:
                break
    _read_steps(unread, run)
    if run.images == 0:
        n, name = len(run.dataset.images), run.dataset.name
        raise ValueError(f"none of the {n} training images could be read: {name}")
    learning_rate = learning_rate_of_step(recipe, steps, run.optimiser.t - 1)
    return run.loss / run.images, run.correct / run.images, learning_rate


def learning_rate_of_step(recipe: Recipe, steps: int, t: int) -> float:
    """Return the learning rate of step t, counted from 0. An epoch has `steps` steps."""
    warmup = round(recipe.warmup * steps)
    return schedule_learning_rate(
        t, recipe.epochs * steps, recipe.learning_rate, warmup, recipe.schedule
    )


def _read_steps(unread: list[Unread], run: TrainingRun) -> None:
    """Add the results of steps to the epoch's sums and to the step log. This waits for a GPU."""
    for step, learning_rate, loss_on_device, correct_on_device, size in unread:
        loss, correct = float(to_host(loss_on_device)), int(to_host(correct_on_device))
        _check_finite(loss, "loss", run)
        run.loss += loss * size
        run.correct += correct
        run.images += size
        row = [step, run.epoch + 1, learning_rate, loss, correct / size, run.seconds]
        run.steps.append(dict(zip(STEP_COLUMNS, row, strict=True)))
    unread.clear()


def _update(run: TrainingRun, gradient: Array, learning_rate: float) -> None:
    """Clip the gradient, then update the weights and their moving average."""
    optimiser, threads = run.optimiser, run.options.threads
    if run.recipe.grad_clip:
        clip_by_global_norm(gradient, run.recipe.grad_clip)
    optimiser.update(gradient, learning_rate, threads)
    if run.ema is not None:
        run.ema.update(optimiser.parameters.vector, optimiser.t, threads)


def _check_finite(loss: float, name: str, run: TrainingRun) -> None:
    if math.isfinite(loss):
        return
    recipe, t = run.recipe, run.optimiser.t
    shrinkage = recipe.learning_rate * recipe.weight_decay  # of a kernel per step, at the peak
    if t == 0:
        reason = (
            "it is not finite even for the initial weights. Check --position-std and --norm-eps"
        )
    elif shrinkage > 2 and recipe.learning_rate <= 1:
        reason = (
            f"weight decay subtracts {shrinkage:.3g} times the weights in each step. Pass a "
            "smaller --weight-decay"
        )
    else:
        reason = f"the learning rate of {recipe.learning_rate} may be too high. Pass a smaller --lr"
    raise FloatingPointError(f"the {name} is {loss} in epoch {run.epoch + 1}: {reason}")
