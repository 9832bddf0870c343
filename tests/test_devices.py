"""Models on a GPU: transfer, training, analysis and the command line.

Without a GPU, the tests use CuPy emulated on the CPU (helpers/emulated_cupy.py).
"""

import dataclasses
import signal
import sys
import threading
import types

import numpy as np
import pytest
from helpers.commands import run
from helpers.models import few_digits, random_batch, tiny_model
from helpers.on_device import ON_GPU, cupy
from helpers.trainings import interrupt

import minivit
from minivit import ViT, analysis, data, training
from minivit.devices import NoGPUError, create_uploader, require_cupy, resolve_device, to_device
from minivit.training import AdamW, Recipe, StepOptions, batch_gradients, loop
from minivit.training.batches import upload_batches
from minivit.tree import flatten, pack

needs_gpu = pytest.mark.usefixtures("gpu")


def emulated(test):
    """Mark a test that inspects the emulated CuPy."""
    return needs_gpu(pytest.mark.skipif(ON_GPU, reason="inspects the emulated CuPy")(test))


SHAPE = ["--patch-size", 4, "--width", 12, "--depth", 2, "--heads", 3, "--mlp-width", 20]


def tiny(device="cpu", **fields):
    """Return a model with perturbed parameters, the same on every device."""
    return tiny_model("float32", depth=2, **fields).to(device)


# --- availability -----------------------------------------------------------------------------


def fake_cupy(driver=13000, devices=1, error=None):
    """Return a module with this driver version and number of devices, whose `ones` raises."""

    def count_devices():
        if isinstance(devices, Exception):
            raise devices
        return devices

    def ones(*_, **__):
        raise error or AssertionError("CuPy was used")

    runtime = types.SimpleNamespace(driverGetVersion=lambda: driver, getDeviceCount=count_devices)
    return types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime), ones=ones)


BROKEN = "CuPy and the NVIDIA driver are installed, but do not work: "
MISSING = {
    "CuPy": (None, 'CuPy is not installed: pip install "cupy-cuda13x[ctk]", or cupy-cuda12x'),
    "driver": (fake_cupy(driver=0), "CuPy is installed, but the NVIDIA driver is missing"),
    "GPU": (fake_cupy(devices=0), "CuPy and the NVIDIA driver are installed, but there is no GPU"),
    "GPU, as CUDA reports it": (
        fake_cupy(devices=RuntimeError("cudaErrorNoDevice: no CUDA-capable device\nmore")),
        BROKEN + "cudaErrorNoDevice: no CUDA-capable device",
    ),
    "header": (
        fake_cupy(error=Exception("cuda_fp16.h: cannot open source file")),
        BROKEN + "cuda_fp16.h: cannot open source file",
    ),
    "library": (
        fake_cupy(error=ImportError("libnvrtc.so.13: cannot open shared object file")),
        BROKEN + "libnvrtc.so.13: cannot open shared object file",
    ),
}


@pytest.mark.parametrize("part", MISSING)
def test_the_error_names_the_missing_part(part, monkeypatch):
    module, message = MISSING[part]
    monkeypatch.setitem(sys.modules, "cupy", module)
    for function in (
        require_cupy,
        lambda: resolve_device("gpu"),
        lambda: ViT.create("ViT-Ti/4", image_size=8, device="gpu"),
    ):
        with pytest.raises(NoGPUError) as caught:
            function()
        assert str(caught.value).startswith(message)
        assert "\n" not in str(caught.value)


def test_a_cupy_that_cannot_be_imported_is_not_reported_as_missing(monkeypatch):
    class BrokenImport:
        def find_spec(self, name, *_):
            if name == "cupy":
                raise ImportError("libcudart.so.13: no such file\nand a long explanation")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [BrokenImport(), *sys.meta_path])
    with pytest.raises(NoGPUError, match=r"cannot be imported: libcudart\.so\.13: no such file$"):
        require_cupy()


@pytest.mark.parametrize(
    "command", ["train", "evaluate", "predict x.png", "attention", "gradcheck"]
)
def test_commands_report_a_missing_gpu(command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "cupy", None)
    result = run(*command.split(), "--device", "gpu")
    assert (result.status, result.out) == (1, "")
    assert result.err.startswith(f"minivit {command.split()[0]}: error: CuPy is not installed: ")
    assert result.err.count("\n") == 1


def test_cost_of_a_gpu_step_needs_no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    result = run("cost", "ViT-Ti/4", "--image-size", 32, "--device", "gpu")
    assert (result.status, result.err) == (0, "")


def test_auto_uses_the_cpu_and_prints_the_reason(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert resolve_device("auto") == "cpu"
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("no GPU available (CuPy is not installed")
    assert err.endswith("); using NumPy on the CPU\n")
    model = ViT.create("ViT-Ti/4", image_size=8, depth=1, device="auto")
    assert (model.device, type(model.params["norm"]["scale"])) == ("cpu", np.ndarray)
    result = run("gradcheck", "layer_norm", "--device", "auto")
    assert (result.status, result.err) == (0, err)


def test_the_cpu_does_not_use_cupy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy())
    assert resolve_device("cpu") == tiny().device == "cpu"
    assert capsys.readouterr() == ("", "")


def test_an_unknown_device_is_rejected():
    with pytest.raises(ValueError, match="unknown device 'tpu': choose auto, cpu, gpu"):
        ViT.create("ViT-Ti/4", image_size=8, device="tpu")


# --- models -----------------------------------------------------------------------------------


@needs_gpu
def test_moving_a_model_does_not_change_it():
    model = tiny()
    on_gpu = model.to("gpu")
    assert (model.device, on_gpu.device, resolve_device("auto")) == ("cpu", "gpu", "gpu")
    assert on_gpu.to("gpu") is on_gpu
    assert model.to("cpu") is model
    assert {type(leaf) for leaf in flatten(on_gpu.params).values()} == {cupy.ndarray}
    for name, leaf in flatten(on_gpu.to("cpu").params).items():
        assert type(leaf) is np.ndarray
        assert np.array_equal(leaf, flatten(model.params)[name])
    scale = on_gpu.params["norm"]["scale"]
    assert to_device({"scale": scale}, "gpu")["scale"] is scale


@needs_gpu
def test_a_model_is_created_saved_and_loaded_on_either_device(tmp_path):
    config = tiny().config
    for device in ("cpu", "gpu"):
        ViT.create(config, seed=4, device=device).save(tmp_path / f"{device}.npz")
    assert (tmp_path / "cpu.npz").read_bytes() == (tmp_path / "gpu.npz").read_bytes()
    loaded = ViT.load(tmp_path / "cpu.npz", device="gpu")
    assert loaded.device == "gpu"
    for layout in ("timm", "google"):
        loaded.save(tmp_path / f"{layout}.npz", layout=layout)
        assert ViT.load(tmp_path / f"{layout}.npz", heads=2).device == "cpu"


@needs_gpu
def test_results_are_on_the_host_and_equal_those_of_the_cpu(monkeypatch):
    model, on_gpu = tiny(), tiny("gpu")
    images, _ = random_batch(7, "float32")
    monkeypatch.setattr("minivit.inference.GPU_BATCH_SIZE", 3)
    for method in (ViT.__call__, ViT.features, ViT.attention):
        actual = method(on_gpu, images)
        assert type(actual) is np.ndarray
        np.testing.assert_allclose(actual, method(model, images), rtol=1e-4, atol=1e-6)
        assert np.array_equal(method(on_gpu, cupy.asarray(images)), actual)
    np.testing.assert_allclose(model(cupy.asarray(images)), model(images), rtol=1e-6)
    images[2, 0, 0] = np.nan
    with pytest.raises(ValueError, match="image 2 of the batch has pixels that are NaN"):
        on_gpu(images)


@needs_gpu
def test_analyses_agree_with_those_of_the_cpu():
    model, on_gpu = tiny(), tiny("gpu")
    images, _ = random_batch(5, "float32")
    boxes = np.array([[0, 0, 4, 4]] * 5)
    scores = [analysis.localisation_scores(m, images, boxes) for m in (model, on_gpu)]
    assert scores[0] == pytest.approx(scores[1], rel=1e-3)
    for kind in analysis.KINDS:
        analysis.plot_model(on_gpu, kind, images if kind in analysis.IMAGE_KINDS else None)


# --- training ---------------------------------------------------------------------------------


def assert_same_parameters(model, reference):
    """Assert that two models agree, except in the key bias: its gradient is a rounding error."""
    expected = flatten(reference.to("cpu").params)
    for name, leaf in flatten(model.to("cpu").params).items():
        pair = leaf, expected[name]
        if name.endswith("attention/qkv/bias"):
            D = len(leaf) // 3
            pair = [np.delete(vector, slice(D, 2 * D)) for vector in pair]
        np.testing.assert_allclose(*pair, atol=1e-4, rtol=1e-4, err_msg=name)


@needs_gpu
@pytest.mark.parametrize("optimiser", training.OPTIMISERS)
def test_ten_steps_agree_with_those_of_the_cpu(optimiser, tmp_path):
    recipe = Recipe(
        epochs=2, batch_size=20, learning_rate=0.01, warmup=0.2, optimiser=optimiser, shards=1,
        ema=0.9, grad_accumulation=2, mixup=0.2, flip=True, shift=1,
    )  # fmt: skip
    scores, models = [], []
    for device in ("cpu", "gpu"):
        models.append(tiny(device, dropout=0.1, drop_path=0.1))
        scores.append(training.train(models[-1], few_digits(), recipe, tmp_path / device))
    assert scores[1].loss == pytest.approx(scores[0].loss, abs=1e-4)
    assert_same_parameters(*models)
    logs = [training.read_log(tmp_path / device / "log.csv") for device in ("cpu", "gpu")]
    for expected, actual in zip(*logs, strict=True):
        assert actual["step"] == expected["step"]
        assert actual["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    assert logs[0][-1]["step"] == 10


@needs_gpu
def test_a_training_resumes_on_the_same_and_on_another_device(tmp_path, monkeypatch):
    recipe = Recipe(epochs=3, batch_size=49, learning_rate=0.01, warmup=1, shards=1, ema=0.5)
    expected = tiny("gpu")
    training.train(expected, few_digits(), recipe, tmp_path / "uninterrupted")

    for device in ("gpu", "cpu"):
        with monkeypatch.context() as patch:
            interrupt(patch, "_train_epoch", call=2)
            with pytest.raises(KeyboardInterrupt):
                training.train(tiny("gpu"), few_digits(), recipe, tmp_path / device)
        loaded = ViT.load(tmp_path / device / "model.npz", device=device)
        training.resume(tmp_path / device, loaded, few_digits())
        assert loaded.device == device
        assert_same_parameters(loaded, expected)
        if device == "gpu" and not ON_GPU:
            for name, leaf in flatten(loaded.params).items():
                assert np.array_equal(leaf.get(), flatten(expected.params)[name].get()), name


@needs_gpu
def test_a_signal_in_an_epoch_loses_no_bit(tmp_path, monkeypatch):
    recipe = Recipe(epochs=2, batch_size=20, shift=0, warmup=0, ema=0.9)
    expected = tiny("gpu")
    training.train(expected, few_digits(), recipe, tmp_path / "uninterrupted")
    monkeypatch.setattr(loop, "LOSS_INTERVAL", 2)
    update, calls = loop._update, []

    def update_and_interrupt(run, *args):
        update(run, *args)
        calls.append(len(calls))
        if len(calls) == 8:  # the third of five steps of the second epoch
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_update", update_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            training.train(tiny("gpu"), few_digits(), recipe, tmp_path / "run")
    assert training.read_progress(tmp_path / "run").batches == 3
    path = tmp_path / "run" / "model.npz"
    loaded = ViT.load(path, device="gpu")
    training.resume(tmp_path / "run", loaded, few_digits())
    assert_same_parameters(loaded, expected)
    if not ON_GPU:
        assert path.read_bytes() == (tmp_path / "uninterrupted" / "model.npz").read_bytes()


@needs_gpu
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # CuPy's
def test_a_step_does_not_wait_for_the_gpu():
    import cupyx

    model = tiny("gpu", dropout=0.1, drop_path=0.1)
    optimiser = AdamW(pack(model.params), weight_decay=0.1)
    average = training.EMA(optimiser.parameters, 0.9)
    images, labels = map(cupy.asarray, random_batch(6, "float32"))
    options = StepOptions(label_smoothing=0.1)
    with cupyx.allow_synchronize(False):  # raises an error instead of waiting
        loss, correct, gradients = batch_gradients(model, images, labels, options, seed=(1,))
        training.clip_by_global_norm(gradients.vector, 1.0)
        optimiser.update(gradients.vector, 0.01)
        average.update(optimiser.parameters.vector, optimiser.t)
        assert (type(loss), loss.shape) == (cupy.ndarray, ())
        assert (type(correct), correct.shape) == (cupy.ndarray, ())
        with pytest.raises(cupyx.DeviceSynchronized):
            training.loss_and_gradients(model, images, labels)  # returns the loss as a float
    assert type(training.loss_and_gradients(model, images, labels)[0]) is float


@emulated
def test_the_loss_is_read_at_intervals(tmp_path, monkeypatch):
    downloads, batch_gradients = [], loop.batch_gradients

    def count_downloads(*args, **kwargs):
        downloads.append(cupy.device.downloads)
        return batch_gradients(*args, **kwargs)

    monkeypatch.setattr(loop, "LOSS_INTERVAL", 4)
    monkeypatch.setattr(loop, "batch_gradients", count_downloads)
    recipe = Recipe(epochs=1, batch_size=10, warmup=0, shards=1, validation=0)
    training.train(tiny("gpu"), few_digits(), recipe, tmp_path)
    assert np.diff(downloads).tolist() == [0, 0, 0, 8, 0, 0, 0, 8, 0]  # losses, correct images


@needs_gpu
def test_a_loss_that_is_not_finite_is_found_at_the_next_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LOSS_INTERVAL", 3)
    recipe = Recipe(epochs=1, batch_size=20, learning_rate=1e18, warmup=0, grad_clip=0, shards=1)
    with (
        np.errstate(all="ignore"),
        pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) in epoch 1"),
    ):
        training.train(tiny("gpu"), few_digits(), recipe, tmp_path)


@emulated
def test_an_upload_waits_for_the_work_queued_before_the_batch_was_made():
    launches = []

    def make_batches():
        for i in range(3):
            launches.append(cupy.device.launches)
            minivit.layers.softmax(cupy.zeros((2, 3), dtype="float32"))
            yield np.zeros((2, 3), dtype=np.float32), np.full(2, i)

    uploader = create_uploader()
    list(upload_batches(make_batches(), 3, uploader))
    calls = uploader.stream.calls
    assert [kind for kind, *_ in calls] == 6 * ["wait", "copy", "synchronize"]  # images, labels
    events = [event for kind, *rest in calls if kind == "wait" for event in rest]
    assert {event.stream for event in events} == {cupy.cuda.get_current_stream()}
    assert [event.launches for event in events] == [n for n in launches for _ in range(2)]


@emulated
def test_per_thread_streams_are_rejected(monkeypatch):
    stream = cupy.cuda.Stream()
    stream.ptr = 2
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: stream)
    with pytest.raises(RuntimeError, match="unset CUPY_CUDA_PER_THREAD_DEFAULT_STREAM"):
        create_uploader()


@needs_gpu
def test_labels_out_of_range_are_rejected_before_the_upload(tmp_path):
    digits = few_digits()
    wrong = digits._replace(labels=digits.labels + 5)
    with pytest.raises(ValueError, match=r"label 1\d is out of range: 10 classes"):
        training.train(tiny("gpu"), wrong, Recipe(epochs=1, shards=1), tmp_path)


@emulated
@pytest.mark.parametrize("optimiser", training.OPTIMISERS)
def test_only_one_thread_uses_the_gpu(optimiser, monkeypatch):
    threads, create = set(), cupy.ndarray.__init__

    def record_thread(self, host):
        if host.base is None:
            threads.add(threading.get_ident())
        create(self, host)

    model = tiny("gpu")
    monkeypatch.setattr(cupy.ndarray, "__init__", record_thread)
    optimiser = training.OPTIMISERS[optimiser](pack(model.params), 0.1)
    average = training.EMA(optimiser.parameters, 0.9)
    options = StepOptions(shards=4, threads=2)
    gradients = batch_gradients(model, *random_batch(8, "float32"), options).gradients
    optimiser.update(gradients.vector, 0.1, threads=2)
    average.update(optimiser.parameters.vector, 1, threads=2)
    assert threads == {threading.get_ident()}


@needs_gpu
def test_fine_tuning_can_train_the_head_alone(tmp_path):
    model = training.replace_head(tiny("gpu"), 10)
    recipe = training.FINE_TUNING
    recipe = dataclasses.replace(recipe, epochs=1, batch_size=20, freeze=True, shards=1)
    before = model.params["norm"]["scale"].get()
    training.train(model, few_digits(), recipe, tmp_path)
    assert np.array_equal(model.params["norm"]["scale"].get(), before)
    assert abs(model.params["head"]["kernel"].get()).max() > 0


# --- out of memory ----------------------------------------------------------------------------


@pytest.fixture
def short_training(tmp_path, monkeypatch):
    """Return the arguments of a command that trains on a few digits."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(data.DATASETS, "digits", lambda n=None: few_digits())
    return ["train", "--device", "gpu", "--epochs", 2, "--warmup", 0, "--overwrite", *SHAPE]


@emulated
@pytest.mark.parametrize(
    ("width", "memory", "option"),
    [(12, 600_000, "--batch-size"), (96, 10_000_000, "--grad-accumulation")],
)
def test_the_batch_size_that_the_error_advises_fits(
    width, memory, option, short_training, monkeypatch
):
    monkeypatch.setattr("minivit.cli.train.report", lambda *_, **__: None)  # no figures
    cupy.device.limit_memory(monkeypatch, memory)
    words = [*short_training, "--ema", 0.9, "--width", width, "--mlp-width", 4 * width]
    result = run(*words, "--batch-size", 97)
    (line,) = result.err.strip().splitlines()
    assert result.status == 1
    assert line.startswith("minivit train: error: out of GPU memory (")
    assert "with 97 images. " in line
    assert 5 < int(line.rpartition(" would fit")[0].rpartition(" ")[2]) < 80
    advised = line.partition(f"{option} ")[2].split()[0]
    batch_size = [] if option == "--batch-size" else ["--batch-size", 97]
    assert run(*words, *batch_size, option, advised).status == 0


@emulated
def test_the_error_gives_other_advice_if_no_smaller_batch_fits(short_training, monkeypatch):
    def exhaust(run):
        raise cupy.OutOfMemoryError("Out of memory allocating 8 bytes")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_epoch", exhaust)
        error = run(*short_training).err
        assert error.endswith("They should fit; check whether another process is using the GPU\n")
    cupy.device.limit_memory(monkeypatch, 30_000)
    error = run(*short_training).err
    assert error.endswith("A single image would not fit; use a smaller model\n")
    result = run("attention", "--device", "gpu")
    error = "minivit attention: error: out of GPU memory. Use a smaller model or smaller images\n"
    assert (result.status, result.err) == (1, error)


@emulated
def test_a_resumed_training_and_the_host_have_their_own_errors(short_training, monkeypatch):
    with monkeypatch.context() as patch:
        interrupt(patch, "_train_epoch", call=2)
        assert run(*short_training, "--batch-size", 97).status == 130
    with monkeypatch.context() as patch:
        cupy.device.limit_memory(patch, 600_000)
        error = run("train", "--device", "gpu", "--resume").err
        assert "would fit; start a new run with --batch-size" in error

    def exhaust_host(run):
        raise MemoryError

    monkeypatch.setattr(loop, "_train_epoch", exhaust_host)
    assert run(*short_training).err.startswith("minivit train: error: out of memory. Pass")


@emulated
def test_inference_halves_the_batch_until_it_fits(monkeypatch):
    model, sizes = tiny("gpu"), []
    images, _ = random_batch(200, "float32")
    expected, infer = tiny()(images), minivit.api.infer

    def record_size(part, *args, **kwargs):
        sizes.append(len(part))
        return infer(part, *args, **kwargs)

    monkeypatch.setattr("minivit.api.infer", record_size)
    cupy.device.limit_memory(monkeypatch, 300_000)
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-6)
    assert sizes[0] == 200
    assert len(sizes) > 3
    assert sizes[-1] < 100


# --- the command line -------------------------------------------------------------------------


@needs_gpu
def test_the_commands_run_on_a_gpu(short_training, tmp_path):
    gpu = ["--device", "gpu"]
    result = run(*short_training, "--precision", "tf32")
    assert (result.status, result.out.count("held-out accuracy")) == (0, 1), result.err
    from minivit.cuda import arrays

    assert arrays.COMPUTE_TYPES["float32"] == arrays.FLOAT32_COMPUTE_TYPES["tf32"]
    accuracies = [run("evaluate", "--device", device).out.split()[0] for device in ("cpu", "gpu")]
    assert accuracies[0] == accuracies[1]
    assert run("evaluate", *gpu, "--shots", 2).status == 0
    image = tmp_path / "runs" / "digits" / "attention.png"
    result = run("predict", *gpu, image, "--top", 1)
    assert (result.status, result.out) == (0, run("predict", image, "--top", 1).out)
    weights = tmp_path / "runs" / "digits" / "model.npz"
    result = run("attention", *gpu, "--weights", weights, "--out", "maps.png")
    assert (result.status, result.err) == (0, "")
    assert (tmp_path / "maps.png").exists()


@needs_gpu
def test_the_printed_configuration_contains_the_device():
    lines = run("train", "--device", "gpu", "--precision", "tf32", "--print-config").out.split("\n")
    assert {"--device gpu", "--precision tf32"} <= set(lines)


@needs_gpu
def test_gradcheck_checks_the_kernels():
    before = cupy.device.launches if not ON_GPU else -1
    result = run("gradcheck", "layer_norm", "--device", "gpu")
    assert (result.status, result.err) == (0, "")
    assert ON_GPU or cupy.device.launches > before
    assert "largest relative error" in result.out
