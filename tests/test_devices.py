"""Models on a GPU: to and fro, trained, looked into, and asked for by the command line.

Without a GPU, CuPy is emulated on the CPU: see `emulated_cupy.py`.
"""

import dataclasses
import sys
import threading
import types

import numpy as np
import pytest
from helpers.commands import run
from helpers.on_device import ON_GPU, cupy, gpu, needs_compiler

import minivit
from minivit import ViT, analysis, data, training
from minivit.devices import NoGPUError, create_uploader, require_cupy, resolve_device, to_device
from minivit.training import AdamW, Recipe, loop, packed_gradients
from minivit.training.batches import prefetch, upload_batches
from minivit.tree import flatten, map_tree

__all__ = ["gpu"]  # the fixture
needs_gpu = pytest.mark.usefixtures("gpu")
emulated = pytest.mark.skipif(ON_GPU, reason="asks the emulation what it was asked for")

SHAPE = {"image_size": 8, "channels": 1, "classes": 10, "patch_size": 4}
TINY = {**SHAPE, "width": 12, "depth": 2, "heads": 3, "mlp_width": 20}
OPTIONS = ["--patch-size", 4, "--width", 12, "--depth", 2, "--heads", 3, "--mlp-width", 20]


def tiny(device="cpu", **fields):
    """A model far from its first values, the same on every device."""
    rng = np.random.default_rng(0)
    config = minivit.ViTConfig(**TINY | fields)
    params = map_tree(
        lambda p: p + (0.1 * rng.standard_normal(p.shape)).astype(p.dtype),
        ViT.create(config).params,
    )
    return ViT(config, params).to(device)


def some_digits(n=40):
    rng = np.random.default_rng(3)
    images = rng.standard_normal((n, 8, 8, 1), dtype=np.float32)
    labels = rng.integers(0, 10, n)
    return data.Dataset("digits", images, labels, images[:8], labels[:8], tuple("0123456789"))


# --- is there a GPU? --------------------------------------------------------------------------


def fake_cupy(driver=13000, devices=1, broken=None):
    """A CuPy that finds only so much."""

    def count():
        if isinstance(devices, Exception):
            raise devices
        return devices

    def ones(*_, **__):
        if broken:
            raise broken
        return np.ones((1, 1))

    runtime = types.SimpleNamespace(driverGetVersion=lambda: driver, getDeviceCount=count)
    return types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime), ones=ones)


MISSING = {
    "CuPy": (None, 'CuPy is not installed: `pip install "cupy-cuda13x[ctk]"` or -cuda12x'),
    "driver": (fake_cupy(driver=0), "CuPy is installed, but no NVIDIA driver"),
    "device": (fake_cupy(devices=0), "CuPy and a driver are installed, but there is no device"),
    "device, as CUDA has it": (
        fake_cupy(devices=RuntimeError("cudaErrorNoDevice: no CUDA-capable device\nmore")),
        "CuPy and a driver are installed, but do not work: cudaErrorNoDevice: no CUDA-capable d",
    ),
    "header": (
        fake_cupy(broken=Exception("cuda_fp16.h: cannot open source file")),  # of no better kind
        "CuPy and a driver are installed, but do not work: cuda_fp16.h: cannot open source file",
    ),
    "library": (
        fake_cupy(broken=ImportError("libnvrtc.so.13: cannot open shared object file")),
        "CuPy and a driver are installed, but do not work: libnvrtc.so.13: cannot open shared",
    ),
}


@pytest.mark.parametrize("part", MISSING)
def test_what_is_missing_is_named(part, monkeypatch, tmp_path):
    module, message = MISSING[part]
    monkeypatch.setitem(sys.modules, "cupy", module)
    with pytest.raises(NoGPUError) as caught:
        require_cupy()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    for call in (
        lambda: ViT.create("ViT-Ti/4", image_size=8, device="gpu"),
        lambda: resolve_device("gpu"),
    ):
        with pytest.raises(NoGPUError):
            call()
    monkeypatch.chdir(tmp_path)
    for words in (["train"], ["evaluate"], ["predict", "x.png"], ["attention"], ["gradcheck"],
                  ["cost", "--measure"]):  # fmt: skip
        result = run(*words, "--device", "gpu")
        assert (result.status, result.out) == (1, "")
        assert result.err == f"minivit: error: {caught.value}\n"


def test_cost_foresees_for_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    words = ["cost", "ViT-Ti/4", "--image-size", 32, "--batch-size", 64]
    on_gpu, on_cpu = run(*words, "--device", "gpu"), run(*words, "--threads", 2)
    assert (on_gpu.status, on_gpu.err) == (0, "")
    assert "a step, in one piece" in on_gpu.out
    assert "shards" in on_cpu.out


def test_a_cupy_that_does_not_start_is_told_from_none(monkeypatch):
    class Broken:
        def find_spec(self, name, *_):
            if name == "cupy":
                raise ImportError("libcudart.so.13: no such file\nand a long explanation")

    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(NoGPUError, match=r"does not start: libcudart\.so\.13: no such file$"):
        require_cupy()


def test_auto_falls_back_with_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert resolve_device("auto") == "cpu"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("no GPU is used (CuPy is not installed")
    assert err.endswith("): NumPy on the CPU does the work\n")
    assert err.count("\n") == 1
    model = ViT.create("ViT-Ti/4", image_size=8, depth=1, device="auto")
    assert (model.device, type(model.params["norm"]["scale"])) == ("cpu", np.ndarray)
    result = run("gradcheck", "layer_norm", "--device", "auto")
    assert result.status == 0
    assert result.err == err


def test_the_cpu_asks_nobody_for_a_gpu(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(broken=AssertionError("was asked")))
    assert resolve_device("cpu") == tiny().device == "cpu"
    assert capsys.readouterr() == ("", "")


def test_unknown_devices_and_precisions():
    with pytest.raises(ValueError, match="unknown device 'tpu': choose auto, cpu, gpu"):
        ViT.create("ViT-Ti/4", image_size=8, device="tpu")
    result = run("evaluate", "--precision", "tf32")
    assert result.status == 2
    assert "--precision is of a GPU's products: it goes with --device gpu or auto" in result.err


# --- to and fro -------------------------------------------------------------------------------


@needs_gpu
@needs_compiler
def test_a_model_moves_and_stays_the_same():
    model = tiny()
    moved_there = model.to("gpu")
    assert (model.device, moved_there.device) == ("cpu", "gpu")
    assert moved_there.to("gpu") is moved_there
    assert model.to("cpu") is model
    back = moved_there.to("cpu")
    for name, leaf in flatten(back.params).items():
        assert type(leaf) is np.ndarray
        assert np.array_equal(leaf, flatten(model.params)[name])
    assert {type(leaf) for leaf in flatten(moved_there.params).values()} == {cupy.ndarray}
    assert resolve_device("auto") == "gpu"


@needs_gpu
@needs_compiler
def test_create_and_load_and_save(tmp_path):
    fields = {name: TINY[name] for name in TINY if name != "patch_size"}
    on_host = ViT.create("ViT-Ti/4", seed=4, **fields)
    there = ViT.create("ViT-Ti/4", seed=4, device="gpu", **fields)
    there.save(tmp_path / "there.npz")
    on_host.save(tmp_path / "host.npz")
    assert (tmp_path / "there.npz").read_bytes() == (tmp_path / "host.npz").read_bytes()
    loaded = ViT.load(tmp_path / "host.npz", device="gpu")
    assert loaded.device == "gpu"
    for layout, name in {"timm": "timm.npz", "google": "google.npz"}.items():
        loaded.save(tmp_path / name, layout=layout)
        assert ViT.load(tmp_path / name, heads=3).device == "cpu"
    kernel = there.params["blocks"][1]["attention"]["qkv"]["kernel"].get()
    assert np.array_equal(kernel, on_host.params["blocks"][1]["attention"]["qkv"]["kernel"])


@needs_gpu
@needs_compiler
def test_what_a_model_answers_is_on_the_host_and_the_same(monkeypatch):
    model, there = tiny(), tiny("gpu")
    images = some_digits(7).images
    monkeypatch.setattr("minivit.api.ON_GPU", 3)  # images at a time
    for ask in (ViT.__call__, ViT.features, ViT.attention):
        found = ask(there, images)
        assert type(found) is np.ndarray
        np.testing.assert_allclose(found, ask(model, images), rtol=1e-4, atol=1e-6)
        assert np.array_equal(ask(there, cupy.asarray(images)), found)
    np.testing.assert_allclose(model(cupy.asarray(images)), model(images), rtol=1e-6)
    with pytest.raises(ValueError, match="image 2 of the batch has pixels that are NaN"):
        there(np.where(np.arange(7)[:, None, None, None] == 2, np.nan, images))


@needs_gpu
@needs_compiler
def test_the_gradient_of_the_whole_model_on_the_device():
    model, there = tiny(), tiny("gpu")
    images = some_digits(3).images
    logits, pullback = model.forward(images)
    found, found_back = there.forward(images)
    dimages, dparams = pullback(np.ones_like(logits))
    found_dimages, found_dparams = found_back(cupy.asarray(np.ones_like(logits)))
    pairs = [(found, logits), (found_dimages, dimages)]
    pairs += zip(flatten(found_dparams).values(), flatten(dparams).values(), strict=True)
    for one, other in pairs:
        assert type(one) is cupy.ndarray
        np.testing.assert_allclose(one.get(), other, rtol=1e-3, atol=1e-5 * abs(other).max())


# --- training ---------------------------------------------------------------------------------


def assert_same_weights(one, other):
    """Of two models, up to 1e-4. But the key bias, whose gradient is 0: what moves it is rounding,
    of which AdamW makes whole steps."""
    expected = flatten(other.to("cpu").params)
    for name, leaf in flatten(one.to("cpu").params).items():
        pair = leaf, expected[name]
        if name.endswith("attention/qkv/bias"):
            D = len(leaf) // 3
            pair = [np.delete(vector, slice(D, 2 * D)) for vector in pair]
        np.testing.assert_allclose(*pair, atol=1e-4, rtol=1e-4, err_msg=name)


@needs_gpu
@needs_compiler
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_ten_steps_agree_with_numpy(optimiser, seed, tmp_path):
    recipe = Recipe(
        epochs=2, batch_size=8, learning_rate=0.01, warmup=0.2, optimiser=optimiser, seed=seed, shards=1,
        ema=0.9, grad_accumulation=2, mixup=0.2, flip=True, shift=1,
    )  # fmt: skip
    config = minivit.ViTConfig(**TINY, dropout=0.1, drop_path=0.1)
    scores, models = [], []
    for device in ("cpu", "gpu"):
        model = ViT.create(config, seed=seed, device=device)
        scores.append(training.train(model, some_digits(), recipe, tmp_path / device))
        models.append(model)
    assert scores[1].loss == pytest.approx(scores[0].loss, abs=1e-4)
    assert_same_weights(models[1], models[0])
    logs = [training.read_log(tmp_path / device / "log.csv") for device in ("cpu", "gpu")]
    for one, other in zip(*logs, strict=True):
        assert one["step"] == other["step"]
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
    assert logs[0][-1]["step"] == 10


@needs_gpu
@needs_compiler
def test_a_training_goes_on_after_an_interruption_and_on_another_device(tmp_path, monkeypatch):
    recipe = Recipe(epochs=3, batch_size=20, learning_rate=0.01, warmup=1, shards=1, ema=0.5)
    images = some_digits()

    def model(device):
        return ViT.create(minivit.ViTConfig(**TINY), device=device)

    expected = model("gpu")
    training.train(expected, images, recipe, tmp_path / "whole")

    def interrupted(run, epoch, real=loop._one_epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return real(run, epoch)

    for folder in ("same", "other"):
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_one_epoch", interrupted)
            with pytest.raises(KeyboardInterrupt):
                training.train(model("gpu"), images, recipe, tmp_path / folder)
    for folder, device in {"same": "gpu", "other": "cpu"}.items():
        loaded = ViT.load(tmp_path / folder / "model.npz", device=device)
        training.resume(tmp_path / folder, loaded, images)
        assert loaded.device == device
        assert_same_weights(loaded, expected)
        if device == "gpu" and not ON_GPU:
            for name, leaf in flatten(loaded.params).items():
                assert np.array_equal(leaf.get(), flatten(expected.params)[name].get()), name


def a_step(model, images, labels, optimiser):
    """Forward, backward, clipping, and the update; nothing of it is needed on the host."""
    loss, _, gradient = packed_gradients(model, images, labels, label_smoothing=0.1, seed=(1,))
    training.clip_by_global_norm(gradient, 1.0)
    optimiser.update(gradient, 0.01)
    return loss


@needs_gpu
@needs_compiler
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # CuPy would rather not be asked
def test_a_step_never_waits_for_the_device():
    import cupyx

    model = tiny("gpu", dropout=0.1, drop_path=0.1)
    optimiser = AdamW(model.params, weight_decay=0.1)
    average = training.EMA(model.params, 0.9)
    digits = some_digits(6)
    images, labels = cupy.asarray(digits.images), cupy.asarray(digits.labels)
    with cupyx.allow_synchronize(False):  # raises where somebody waits
        loss = a_step(model, images, labels, optimiser)
        average.update(optimiser.vector, optimiser.t)
        assert type(loss) is cupy.ndarray
        assert loss.shape == ()
        with pytest.raises(cupyx.DeviceSynchronized):
            training.loss_and_gradients(model, images, labels)  # which gives a number
    assert type(training.loss_and_gradients(model, images, labels)[0]) is float


@emulated
@needs_gpu
@needs_compiler
def test_the_loss_is_read_rarely(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "READ", 4)
    seen, real = [], loop.packed_gradients

    def counted(*args, **kwargs):
        seen.append(cupy.device.reads)
        return real(*args, **kwargs)

    monkeypatch.setattr(loop, "packed_gradients", counted)
    recipe = Recipe(epochs=1, batch_size=4, warmup=0, shards=1)
    training.train(tiny("gpu"), some_digits(), recipe, tmp_path)
    assert np.diff(seen).tolist() == [0, 0, 0, 4, 0, 0, 0, 4, 0]


@needs_gpu
@needs_compiler
def test_a_loss_that_is_no_number_is_found_at_the_next_look(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "READ", 3)
    recipe = Recipe(epochs=1, batch_size=8, learning_rate=1e18, warmup=0, grad_clip=0, shards=1)
    with (
        np.errstate(all="ignore"),
        pytest.raises(FloatingPointError, match=r"the loss is (nan|inf) in epoch 1"),
    ):
        training.train(tiny("gpu"), some_digits(), recipe, tmp_path)


@needs_gpu
@needs_compiler
def test_batches_arrive_whole_and_in_order():
    made = [(np.full((3, 2), i, dtype=np.float32), np.arange(i, i + 3)) for i in range(5)]
    arrived = list(prefetch(upload_batches(iter(made), 10, create_uploader())))
    assert len(arrived) == 5
    for (images, labels), (host_images, host_labels) in zip(arrived, made, strict=True):
        assert type(images) is type(labels) is cupy.ndarray
        assert np.array_equal(images.get(), host_images)
        assert np.array_equal(labels.get(), host_labels)


@emulated
@needs_gpu
@needs_compiler
def test_a_batch_waits_for_what_may_use_its_memory_and_for_no_more():
    asked = []

    def making():
        for i in range(3):
            asked.append(cupy.device.launches)  # what is launched until it is made
            minivit.layers.softmax(cupy.zeros((2, 3), dtype="float32"))
            yield np.zeros((2, 3), dtype=np.float32), np.full(2, i)

    send = create_uploader()
    list(upload_batches(making(), 3, send))
    kinds = [kind for kind, *_ in send.stream.asked]
    assert kinds == 6 * ["wait", "copy", "synchronize"]  # images and labels, each by itself
    events = [what[0] for kind, *what in send.stream.asked if kind == "wait"]
    assert {event.stream for event in events} == {cupy.cuda.get_current_stream()}
    assert [event.behind for event in events] == [n for n in asked for _ in range(2)]


@emulated
@needs_gpu
def test_threads_with_streams_of_their_own_are_refused(monkeypatch):
    stream = cupy.cuda.Stream()
    monkeypatch.setattr(stream, "ptr", 2)
    monkeypatch.setattr(cupy.cuda, "get_current_stream", lambda: stream)
    with pytest.raises(RuntimeError, match="unset CUPY_CUDA_PER_THREAD_DEFAULT_STREAM"):
        create_uploader()


@needs_gpu
@needs_compiler
def test_labels_of_no_class_are_refused_before_they_are_sent(tmp_path):
    digits = some_digits()
    wrong = digits._replace(labels=digits.labels + 5)
    with pytest.raises(ValueError, match=r"label 1\d is out of range: with 10 classes"):
        training.train(tiny("gpu"), wrong, Recipe(epochs=1, batch_size=8, shards=1), tmp_path)


@emulated
@needs_gpu
@needs_compiler
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_a_device_is_asked_by_one_thread(optimiser, tmp_path, monkeypatch):
    threads, real = set(), cupy.ndarray.__init__

    def seen(self, host):
        if host.base is None:
            threads.add(threading.get_ident())
        real(self, host)

    monkeypatch.setattr(cupy.ndarray, "__init__", seen)
    model, digits = tiny("gpu"), some_digits(8)
    optimiser = training.OPTIMISERS[optimiser](model.params, 0.1)
    average = training.EMA(model.params, 0.9)
    *_, gradient = packed_gradients(model, digits.images, digits.labels, shards=4, threads=2)
    optimiser.update(gradient, 0.1, threads=2)
    average.update(optimiser.vector, 1, threads=2)
    assert threads == {threading.get_ident()}


@needs_gpu
@needs_compiler
def test_fine_tuning_and_a_frozen_body(tmp_path):
    digits = some_digits()
    body = training.replace_head(tiny("gpu"), 10)
    assert body.device == "gpu"
    recipe = dataclasses.replace(
        training.FINE_TUNING, epochs=1, batch_size=20, freeze=True, shards=1
    )
    before = body.params["norm"]["scale"].get()
    training.train(body, digits, recipe, tmp_path)
    assert np.array_equal(body.params["norm"]["scale"].get(), before)
    assert abs(body.params["head"]["kernel"].get()).max() > 0


# --- out of memory ----------------------------------------------------------------------------


@emulated
@needs_gpu
@needs_compiler
@pytest.mark.parametrize("way", ["--batch-size", "--grad-accumulation"])
@pytest.mark.parametrize(
    ("wide", "memory"), [([], 1_300_000), (["--width", 96, "--mlp-width", 384], 9_000_000)]
)
def test_out_of_device_memory_tells_what_would_fit(wide, memory, way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    some, command = data.DATASETS["digits"](), sys.modules["minivit.commands.train"]
    some = some._replace(images=some.images[:400], labels=some.labels[:400])
    monkeypatch.setitem(data.DATASETS, "digits", lambda: some)
    monkeypatch.setattr(command, "report", lambda *_: None)  # figures take long
    monkeypatch.setattr(cupy.device, "total", cupy.device.used + memory)
    cupy.device.free_all_blocks()
    words = ["train", "--device", "gpu", "--epochs", 1, "--overwrite", *OPTIONS, *wide]
    words += ["--ema", 0.9]
    result = run(*words, "--batch-size", 400)
    assert result.status == 1
    told = result.err.strip().splitlines()
    assert len(told) == 1
    assert told[0].startswith("minivit: error: out of device memory (")
    assert "with 400 images at once: " in told[0]
    most = int(told[0].rpartition(" would fit")[0].rpartition(" ")[2])
    assert 5 < most < 300
    fits = told[0].rpartition(f"{way} ")[2].split()[0]
    words += ["--batch-size", fits] if way == "--batch-size" else ["--batch-size", 400, way, fits]
    assert run(*words).status == 0


@emulated
@needs_gpu
@needs_compiler
def test_not_even_one_image_fits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cupy.device, "total", cupy.device.used + 30_000)
    cupy.device.free_all_blocks()
    result = run("train", "--device", "gpu", "--epochs", 1, *OPTIONS)
    assert result.status == 1
    assert result.err.endswith("not even one would fit, take a smaller model\n")
    result = run("attention", "--device", "gpu")
    told = "minivit: error: out of device memory: a smaller model, or smaller images, need less\n"
    assert (result.status, result.err) == (1, told)


@emulated
@needs_gpu
@needs_compiler
def test_what_is_told_of_a_training_that_went_on_or_should_have_fitted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--device", "gpu", "--epochs", 2, "--batch-size", 700, *OPTIONS]

    def no_more(run, epoch):
        raise KeyboardInterrupt if epoch == 2 else MemoryError

    def too_much(run, epoch):
        raise cupy.OutOfMemoryError("Out of memory allocating 8 bytes")

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_one_epoch", too_much)
        assert run(*words).err.endswith("should fit: does something else use the GPU?\n")
        patch.setattr(cupy.device, "total", cupy.device.used + 4_000_000)
        cupy.device.free_all_blocks()
        result = run("train", "--device", "gpu", "--resume")
        assert "would fit, in a training begun anew with --batch-size" in result.err
        patch.setattr(loop, "_one_epoch", no_more)  # of the host's memory, that is
        assert run(*words, "--overwrite").err.startswith("minivit: error: out of memory: a smaller")


@emulated
@needs_gpu
@needs_compiler
def test_answers_come_in_smaller_parts_where_memory_does_not_do(monkeypatch):
    model, images = tiny("gpu"), some_digits(200).images
    expected, sizes = tiny()(images), []
    monkeypatch.setattr(cupy.device, "total", cupy.device.used + 300_000)
    real = model._infer

    def infer(part):
        sizes.append(len(part))
        return real(part)

    monkeypatch.setattr(model, "_infer", infer)
    np.testing.assert_allclose(model(images), expected, rtol=1e-4, atol=1e-6)
    assert sizes[0] == 200
    assert len(sizes) > 3
    assert sizes[-1] < 100


# --- the command line -------------------------------------------------------------------------


@needs_gpu
@needs_compiler
def test_train_evaluate_predict_and_look_on_the_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = ["--device", "gpu"]
    result = run("train", *there, "--epochs", 1, "--precision", "tf32", *OPTIONS)
    assert result.status == 0, result.err
    from minivit.cuda import arrays

    assert arrays.ADDED_UP["float32"] == arrays.READ_AS["tf32"] != arrays.READ_AS["float32"]
    answers = {}
    for device in ("cpu", "gpu"):
        result = run("evaluate", "--device", device)
        assert (result.status, result.err) == (0, "")
        answers[device] = result.out.partition("\n")[0]
    assert answers["cpu"] == answers["gpu"]
    assert run("evaluate", *there, "--shots", 2).status == 0
    image = tmp_path / "runs" / "digits" / "attention.png"
    result = run("predict", *there, image, "--top", 1)
    assert result.status == 0
    assert result.out == run("predict", image, "--top", 1).out
    for kind in ("maps", "positions"):  # all kinds: see below
        words = ["attention", "--weights", "runs/digits/model.npz", "--kind", kind]
        pictures = []
        for device in ("cpu", "gpu"):
            result = run(*words, "--device", device, "--out", f"{device}.png")
            assert (result.status, result.err) == (0, "")
            pictures.append((tmp_path / f"{device}.png").stat().st_size)
        assert pictures[0] == pytest.approx(pictures[1], rel=0.01)
    result = run("train", *there, "--resume")
    assert "fully trained" in result.err


@needs_gpu
@needs_compiler
def test_a_printed_configuration_names_the_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = run("train", "--device", "gpu", "--precision", "tf32", "--print-config").out.split("\n")
    assert {"--device gpu", "--precision tf32"} <= set(lines)


@needs_gpu
@needs_compiler
def test_gradcheck_on_the_device():
    before = cupy.device.launches if not ON_GPU else -1
    result = run("gradcheck", "layer_norm", "--device", "gpu")
    assert (result.status, result.err) == (0, "")
    assert ON_GPU or cupy.device.launches > before  # of kernels, that is
    assert "worst error" in result.out


@needs_gpu
@needs_compiler
def test_cost_is_measured_on_the_device(tmp_path):
    shape = ["ViT-Ti/4", "--image-size", 8, "--classes", 10, "--depth", 1, "--width", 12]
    shape += ["--heads", 3, "--mlp-width", 20, "--batch-size", 3]
    waited = len(cupy.cuda.get_current_stream().asked) if not ON_GPU else 0
    result = run("cost", *shape, "--measure", "--device", "gpu", "--csv", tmp_path / "cost.csv")
    assert (result.status, result.err) == (0, "")
    if not ON_GPU:  # times of launches alone would tell nothing
        asked = cupy.cuda.get_current_stream().asked[waited:]
        assert asked.count(("synchronize",)) > 100
    assert "the batch in one piece, on the GPU" in result.out
    assert "a step, in one piece" in result.out
    kept = result.out.partition("kept after a forward of the whole model: ")[2].split(",")[0]
    predicted = result.out.partition(", predicted ")[2].splitlines()[0]
    numbers = [float(text.split()[0]) for text in (kept, predicted)]
    assert numbers[0] == pytest.approx(numbers[1], rel=0.35)
    told = result.out.rpartition("peak ")[2].split(", predicted ")
    peak, most = (float(text.split()[0]) for text in told)
    assert most / 2 < peak < most


@emulated
@needs_gpu
def test_cost_does_not_begin_what_the_device_cannot_hold(monkeypatch):
    monkeypatch.setattr(cupy.device, "total", cupy.device.used + 10_000_000)
    cupy.device.free_all_blocks()
    result = run("cost", "ViT-B/16", "--measure", "--device", "gpu")
    assert result.status == 1
    assert "--measure would need" in result.err
    assert "of which 10.0 MB are free: not even one image fits" in result.err


# --- looking inside ---------------------------------------------------------------------------


@needs_gpu
@needs_compiler
def test_the_analyses_of_a_model_on_the_device(tmp_path):
    model, there, digits = tiny(), tiny("gpu"), some_digits(5)
    for one, other in zip(
        analysis.attention_gradients(there, digits.images),
        analysis.attention_gradients(model, digits.images),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
    boxes = np.array([[0, 0, 4, 4]] * 5)
    shares = [analysis.localisation_scores(m, digits.images, boxes) for m in (model, there)]
    assert shares[0] == pytest.approx(shares[1], rel=1e-3)
    table = analysis.position_table(there)
    assert type(table) is cupy.ndarray
    similarity = analysis.position_similarity(table, model.config.grid)
    expected = analysis.position_similarity(analysis.position_table(model), model.config.grid)
    np.testing.assert_allclose(similarity.get(), expected, rtol=1e-4, atol=1e-6)
    for kind in analysis.KINDS:
        images = digits.images if kind in analysis.OF_IMAGES else None
        analysis.draw(there, kind, tmp_path / f"{kind}.png", images, list("12345"))
    assert {path.stem for path in tmp_path.glob("*.png")} == set(analysis.KINDS)


@needs_gpu
def test_a_tree_that_is_there_is_not_copied():
    tree = {"a": cupy.zeros(3, dtype="float32")}
    assert to_device(tree, "gpu")["a"] is tree["a"]
