"""A folder of images by class: how it is laid out, how it is read, and what cannot be read."""

import errno
import os
import threading
import warnings
import weakref
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minivit import ViT, ViTConfig
from minivit.data import (
    Dataset,
    ResizedImages,
    get_preprocessing,
    load_digits,
    read_image,
    resize_dataset,
)
from minivit.data.dataset import fingerprint, read, take
from minivit.data.folder import FolderImages, describe_unreadable, load_folder
from minivit.models import PREPROCESSINGS
from minivit.training.evaluate import BATCH, Score, evaluate, map_batches, predict_batches

DATA = os.environ.get("MINIVIT_TEST_DATA")


def paint(path, shade=0, size=(6, 6), mode="RGB", **options):
    """A picture of one shade, in folders that are made where they lack."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, (shade,) * len(mode) if len(mode) > 1 else shade).save(path, **options)
    return path


def spoil(path):
    """A file that is no image, whatever its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"no image")
    return path


def shade(value):
    return np.float32(value) / np.float32(127.5) - 1


@pytest.fixture
def zoo(tmp_path):
    """30 cats, 20 dogs and 3 eels, each of a shade of its own."""
    for c, (name, n) in enumerate([("eel", 3), ("cat", 30), ("dog", 20)]):
        for i in range(n):
            paint(tmp_path / "zoo" / name / f"{i:02}.png", 50 * c + i)
    return tmp_path / "zoo"


def names(images):
    """The files, as CLASS/NAME."""
    return ["/".join(Path(file).parts[-2:]) for file in images.files]


# --- how it is laid out ----------------------------------------------------------------------


def test_classes_are_the_folders_names_in_order(zoo):
    d = load_folder(zoo, (4, 4))
    assert isinstance(d, Dataset)
    assert d.classes == ("cat", "dog", "eel")
    assert d.name == "images in zoo"
    for images, labels in (d[1:3], d[3:5]):
        assert labels.dtype == np.int64
        assert [d.classes[c] for c in labels] == [name.split("/")[0] for name in names(images)]


def test_names_that_are_no_text_become_text(zoo):
    try:
        (zoo / "cat").rename(zoo / "c\udcfft")  # the byte 255
    except OSError:
        pytest.skip("this system has no such names")
    d = load_folder(zoo, (4, 4))
    assert d.classes == ("c\\udcfft", "dog", "eel")
    assert len(d.images[:1]) == 1


def test_a_tenth_of_each_class_is_held_out(zoo):
    d = load_folder(zoo, (4, 4))
    assert np.bincount(d.labels).tolist() == [27, 18, 2]
    assert np.bincount(d.held_out_labels).tolist() == [3, 2, 1]
    both = names(d.images) + names(d.held_out_images)
    assert sorted(both) == sorted(f"{p.parent.name}/{p.name}" for p in zoo.glob("*/*"))
    for images in (d.images, d.held_out_images):
        assert names(images) == sorted(names(images))


def test_the_seed_says_which(zoo):
    held_out = names(load_folder(zoo, (4, 4)).held_out_images)
    assert names(load_folder(zoo, (8, 8), 1).held_out_images) == held_out
    assert names(load_folder(zoo, (4, 4), seed=1).held_out_images) != held_out
    paint(zoo / "cat" / "another.png")  # changes nothing for the dogs
    again = names(load_folder(zoo, (4, 4)).held_out_images)
    assert again != held_out
    assert [name for name in again if "dog" in name] == [n for n in held_out if "dog" in n]


def test_a_single_image_is_for_training(zoo):
    paint(zoo / "fox" / "only.png")
    d = load_folder(zoo, (4, 4))
    assert np.bincount(d.labels).tolist() == [27, 18, 2, 1]
    assert np.bincount(d.held_out_labels).tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("train", "held_out"),
    [("train", "val"), ("train", "valid"), ("train", "validation"), ("train", "test"),
     ("Train", "Test")],
)  # fmt: skip
def test_the_folder_may_say_what_is_held_out(tmp_path, train, held_out):
    for place in ("a/1", "a/2", "b/3", "c/4"):
        paint(tmp_path / train / f"{place}.png")
    for place in ("c/5", "a/6"):
        paint(tmp_path / held_out / f"{place}.png")
    paint(tmp_path / "other" / "d" / "7.png")  # no part of it
    d = load_folder(tmp_path, (4, 4))
    assert d.classes == ("a", "b", "c")
    assert names(d.images) == ["a/1.png", "a/2.png", "b/3.png", "c/4.png"]
    assert names(d.held_out_images) == ["a/6.png", "c/5.png"]
    assert d.labels.tolist() == [0, 0, 1, 2]
    assert d.held_out_labels.tolist() == [0, 2]


def test_of_several_parts_that_could_be_held_out_it_is_val(tmp_path):
    for part in ("train", "test", "val", "valid", "validation"):
        for c in "ab":
            paint(tmp_path / part / c / f"{part}.png")
    assert names(load_folder(tmp_path, (4, 4)).held_out_images) == ["a/val.png", "b/val.png"]


def test_a_class_may_be_called_train(tmp_path):
    for c in ("bus", "test", "train"):
        for i in range(3):
            paint(tmp_path / c / f"{i}.png")
    d = load_folder(tmp_path, (4, 4))
    assert d.classes == ("bus", "test", "train")
    assert (len(d.images), len(d.held_out_images)) == (6, 3)


def test_what_is_hidden_or_no_image_by_its_name_does_not_count(zoo):
    before = load_folder(zoo, (4, 4))
    for place in ("cat/.hidden.png", "cat/._00.png", ".cache/00.png", "cat/.thumbnails/00.png"):
        paint(zoo / place)
    for place in ("labels.csv", "cat/notes.txt", "cat/png", "cat/Thumbs.db", "dog/00.png.part"):
        (zoo / place).write_text("...")
    after = load_folder(zoo, (4, 4))
    assert after.classes == before.classes
    assert names(after.images) == names(before.images)
    assert names(after.held_out_images) == names(before.held_out_images)


def test_images_of_many_formats_count_and_so_do_links(tmp_path):
    for i, suffix in enumerate(["png", "jpg", "JPG", "JPEG", "webp", "bmp", "gif", "tiff", "ppm"]):
        paint(tmp_path / "train" / "a" / f"{i}.{suffix}", 255)
    paint(tmp_path / "elsewhere.png", 255)
    (tmp_path / "train" / "a" / "9.png").symlink_to(tmp_path / "elsewhere.png")
    for place in ("train/b", "val/a"):
        paint(tmp_path / place / "0.png", 255)
    d = load_folder(tmp_path, (3, 3))
    assert len(d.images) == 11
    np.testing.assert_allclose(d.images[:], 1, rtol=0, atol=0.02)


def test_a_class_may_have_folders_within(tmp_path):
    for place in ("train/a/2.png", "train/a/1/z.png", "train/a/1/deep.png/0.png", "train/b/3.png",
                  "val/b/in/4.png"):  # fmt: skip
        paint(tmp_path / place)
    (tmp_path / "train" / "a" / "round").symlink_to(tmp_path / "train" / "a")
    d = load_folder(tmp_path, (4, 4))
    within = [str(Path(file).relative_to(tmp_path)) for file in d.images.files]
    assert within == ["train/a/1/deep.png/0.png", "train/a/1/z.png", "train/a/2.png",
                      "train/b/3.png"]  # fmt: skip
    assert d.labels.tolist() == [0, 0, 0, 1]
    assert names(d.held_out_images) == ["in/4.png"]


def test_the_order_is_not_that_of_the_disk(zoo, monkeypatch):
    listed, orders = os.scandir, []
    for backwards in (False, True):

        @contextmanager
        def scandir(path, backwards=backwards):
            yield sorted(listed(path), key=lambda entry: entry.name, reverse=backwards)

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", scandir)
            d = load_folder(zoo, (4, 4))
        orders.append((d.classes, names(d.images), names(d.held_out_images)))
    assert orders[0] == orders[1]


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(zoo, capsys):
    d = load_folder(zoo, (4, 4))
    (zoo / "cat" / "99.png").symlink_to(zoo / "nothing.png")
    (zoo / "cat" / "98.png").symlink_to(zoo / "cat" / "98.png")
    linked = load_folder(zoo, (4, 4))
    assert len(linked.images) + len(linked.held_out_images) == 55
    for images in (linked.images, linked.held_out_images):
        images.read(slice(None))
    assert describe_unreadable(linked) == "2 of 55 images could not be read"
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert linked.classes == d.classes


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([], "SET has no classes"),
        (["1.png", "2.png"], "SET has no classes"),
        (["a/1.png", "b/notes.txt"], "b has no images"),
        (["a/1.png", "a/2.png"], "SET has only one class, 'a'"),
        (["a/1.png", "b/1.png"], "one image of each class"),
        (["train/a/1.png", "train/b/1.png"], r"none held out: .*SET.val, or give .*SET.train,"),
        (["train/a/1.png", "val/a/1.png"], "train has only one class, 'a'"),
        (["train/a/1.png", "train/b/1.png", "val/1.png"], "val has no classes"),
        (["train/a/1.png", "train/b/1.txt", "val/a/1.png"], "train.b has no images"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.txt"], "val.a has no images"),
        (["train/a/1.png", "train/b/1.png", "val/c/1.png"], "val.c: .*train has no class of this"),
    ],
)
def test_a_folder_that_is_laid_out_otherwise_is_refused_in_one_line(tmp_path, places, message):
    (tmp_path / "SET").mkdir()
    for place in places:
        paint(tmp_path / "SET" / place, format="png")
    with pytest.raises(ValueError, match=message) as error:
        load_folder(tmp_path / "SET", (4, 4))
    assert str(tmp_path / "SET") in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_no_folder_is_refused(tmp_path):
    path = paint(tmp_path / "x.png")
    with pytest.raises(NotADirectoryError, match=r"x\.png is a file: a folder of"):
        load_folder(str(path), (4, 4))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nothing"):
        load_folder(tmp_path / "nothing", (4, 4))
    with pytest.raises(ValueError, match="pictures have 1 or 3 channels, not 4"):
        load_folder(tmp_path, (4, 4), 4)


# --- how it is read --------------------------------------------------------------------------


def shades(n, tmp_path, **options):
    """FolderImages of n shades."""
    files = [str(paint(tmp_path / f"{i}.png", i)) for i in range(n)]
    return FolderImages(files, (2, 3), 3, **options)


CHOICES = [slice(None), slice(1, 6, 2), np.array([4, 0, 4]), [3], np.arange(7) % 2 == 1, -1, 2]


@pytest.mark.parametrize("chosen", CHOICES, ids=str)
@pytest.mark.parametrize("threads", [1, 3, None])
def test_images_are_taken_out_as_of_an_array(tmp_path, chosen, threads):
    images = shades(7, tmp_path, threads=threads)
    assert images.shape == (7, 2, 3, 3)
    assert len(images) == 7
    array = np.broadcast_to(shade(np.arange(7))[:, None, None, None], images.shape)
    assert images[chosen].dtype == np.float32
    assert np.array_equal(images[chosen], array[chosen])
    if np.ndim(array[chosen]) == 4:
        some, good = images.read(chosen)
        assert np.array_equal(some, array[chosen])
        assert good.dtype == bool
        assert good.tolist() == [True] * len(some)


def by_hand(picture, H, W):
    """The short side scaled, and the middle cut out, by Pillow alone."""
    scale = max(H / picture.height, W / picture.width)
    picture = picture.resize(
        (int(picture.width * scale + 1e-9), int(picture.height * scale + 1e-9)),
        Image.Resampling.BILINEAR,
    )
    left, top = round((picture.width - W) / 2), round((picture.height - H) / 2)
    pixels = np.asarray(picture.crop((left, top, left + W, top + H)))
    return pixels.reshape(H, W, -1) / 127.5 - 1


def first(path, size, channels):
    return FolderImages([str(path)], size, channels)[0]


@pytest.mark.skipif(not DATA, reason="MINIVIT_TEST_DATA does not name the folder of test data")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 64), (48, 80), (80, 48), (300, 300)])
def test_a_photograph_keeps_its_shape_and_its_middle(tmp_path, size, channels):
    for i, path in enumerate(sorted(Path(DATA, "photos").glob("*.png"))):
        with Image.open(path) as photo:
            cut = photo.convert("RGB").crop((0, 0, 256, 256) if i % 2 else (20, 0, 200, 256))
        cut.save(tmp_path / "photo.png")
        image = first(tmp_path / "photo.png", size, channels)
        expected = by_hand(cut.convert("L" if channels == 1 else "RGB"), *size)
        assert image.shape == (*size, channels)
        np.testing.assert_allclose(image, expected, rtol=0, atol=1e-6)


@pytest.mark.skipif(not DATA, reason="MINIVIT_TEST_DATA does not name the folder of test data")
@pytest.mark.parametrize("suffix", ["jpg", "webp", "tiff"])
def test_a_photograph_is_nearly_the_same_in_each_format(tmp_path, suffix):
    for path in sorted(Path(DATA, "photos").glob("*.png")):
        with Image.open(path) as photo:
            photo.convert("RGB").save(tmp_path / f"photo.{suffix}", quality=95)
        images = FolderImages([str(path), str(tmp_path / f"photo.{suffix}")], (64, 64), 3)
        assert abs(images[0] - images[1]).mean() < 0.02


def test_a_camera_that_was_held_upright_is_believed(tmp_path):
    ramp = Image.fromarray(np.arange(0, 240, 10, dtype=np.uint8).reshape(4, 6))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter, clockwise
    ramp.save(tmp_path / "x.png", exif=exif)
    turned = np.rot90(np.asarray(ramp), -1)[..., None] / 127.5 - 1  # (6, 4, 1)
    np.testing.assert_allclose(first(tmp_path / "x.png", (6, 4), 1), turned, rtol=0, atol=1e-6)
    square = first(tmp_path / "x.png", (4, 4), 1)
    np.testing.assert_allclose(square, turned[1:5], rtol=0, atol=1e-6)


def test_what_is_transparent_is_white(tmp_path):
    path = paint(tmp_path / "x.png", 0, mode="RGBA")
    assert (first(path, (4, 4), 3) == 1).all()
    assert (first(path, (4, 4), 1) == 1).all()


def test_no_file_is_opened_before_it_is_asked_for(zoo, monkeypatch):
    opened = []
    monkeypatch.setattr(Image, "open", counting(Image.open, opened))
    d = load_folder(zoo, (4, 4))
    assert opened == []
    d.images[[5, 9]]
    assert sorted(map(str, opened)) == sorted(d.images.files[[5, 9]])


def counting(function, calls):
    def counted(path):
        calls.append(path)
        return function(path)

    return counted


def test_pillow_knows_its_formats_before_any_thread_starts(tmp_path, monkeypatch):
    file, learned = str(paint(tmp_path / "x.png")), []
    monkeypatch.setattr(Image, "init", lambda: learned.append(threading.current_thread()))
    FolderImages([file], (4, 4), 3)
    assert learned == [threading.main_thread()]


def test_as_many_files_are_read_at_a_time_as_there_are_threads(tmp_path, monkeypatch):
    images = shades(6, tmp_path, threads=3)
    together = threading.Barrier(3, timeout=5)  # broken, if they came one by one
    opening = Image.open

    def meet(path):
        together.wait()
        return opening(path)

    monkeypatch.setattr(Image, "open", meet)
    assert images.read(slice(None))[1].all()


def test_warnings_of_pillow_are_not_shown_and_others_are_as_before(tmp_path, monkeypatch):
    images = shades(40, tmp_path, threads=4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # a warning for each of 36
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert images.read(slice(None))[1].all()
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", stacklevel=1)


# --- what cannot be read ---------------------------------------------------------------------


@pytest.fixture
def torn(tmp_path):
    """Six images of which 1, 2 and 5 cannot be read: no image, half of one, a link to nothing."""
    images = shades(6, tmp_path)
    spoil(tmp_path / "1.png")
    half = (tmp_path / "2.png").read_bytes()[:-30]
    (tmp_path / "2.png").write_bytes(half)
    (tmp_path / "5.png").unlink()
    (tmp_path / "5.png").symlink_to(tmp_path / "nothing.png")
    return images


def test_an_unreadable_image_is_skipped_with_its_label_and_named_once(torn, capsys):
    labels = np.arange(6) * 10
    images, known = take(torn, labels, np.array([3, 2, 1, 1, 0]))
    assert images.dtype == np.float32
    assert images[:, 0, 0, 0].tolist() == shade(np.array([3, 0])).tolist()
    assert known.tolist() == [30, 0]
    said = capsys.readouterr()
    assert said.out == ""
    lines = said.err.splitlines()
    assert [line.split(" cannot")[0] for line in lines] == [
        f"skipped: {torn.files[2]}", f"skipped: {torn.files[1]}"
    ]  # fmt: skip
    assert torn.unreadable == {torn.files[1], torn.files[2]}
    _, known = take(torn, labels, slice(0, 5))
    assert known.tolist() == [0, 30, 40]
    assert capsys.readouterr().err == ""
    assert torn.read(slice(None))[1].tolist() == [True, False, False, True, True, False]
    assert capsys.readouterr().err == f"skipped: there is no file {torn.files[5]}\n"


@pytest.mark.parametrize("fault", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_what_the_system_lacks_makes_no_image_unreadable(zoo, monkeypatch, fault):
    def refuse(*args):
        raise fault

    d = load_folder(zoo, (4, 4))
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", refuse)
        with pytest.raises(type(fault)):
            d.images.read(slice(None))
    assert len(d.images.read(slice(None))[0]) == len(d.images)


def test_what_could_not_be_read_is_not_tried_again(torn, tmp_path, capsys):
    assert torn.read([1])[1].tolist() == [False]
    paint(tmp_path / "1.png")  # too late: scores stay comparable
    assert torn.read([1])[1].tolist() == [False]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_batch_of_which_nothing_can_be_read_is_empty(torn):
    images, labels = take(torn, np.arange(6), np.array([1, 2, 5]))
    assert images.shape == (0, 2, 3, 3)
    assert labels.shape == (0,)


def test_an_index_wants_all_of_its_images(torn):
    for chosen in (2, [0, 2, 1], slice(2, 4)):
        with pytest.raises(ValueError, match=r"2\.png cannot be read as an image"):
            torn[chosen]
    assert np.array_equal(torn[[0, 3]], torn.read([0, 3])[0])


def test_where_none_can_be_read_it_is_an_error(torn, tmp_path):
    for i in (0, 3, 4):
        spoil(tmp_path / f"{i}.png")
    assert len(torn.read(slice(0, 5))[0]) == 0  # the last may yet be good
    for _ in range(2):
        with pytest.raises(ValueError, match=r"none .* can be read, from .*0\.png to .*5\.png"):
            torn.read([5])


def test_how_many_could_not_be_read_is_told_of_both_parts(zoo, capsys):
    d = load_folder(zoo, (4, 4))
    assert (
        describe_unreadable(d)
        == describe_unreadable(resize_dataset(d, (8, 8), 3))
        == describe_unreadable(load_digits())
        == ""
    )
    for file in (*d.images.files[:2], d.held_out_images.files[0]):
        spoil(Path(file))
    for images in (d.images, d.held_out_images):
        images.read(slice(None))
    assert (
        describe_unreadable(d)
        == describe_unreadable(resize_dataset(d, (8, 8), 3))
        == "3 of 53 images could not be read"
    )
    assert len(capsys.readouterr().err.splitlines()) == 3
    many = d._replace(images=Fake(2000, {f"{i}" for i in range(1200)}))
    assert describe_unreadable(many) == "1,201 of 2,006 images could not be read"


class Fake:
    """Images by their number alone, that remember how many were read, of which some cannot be."""

    def __init__(self, n, unreadable=()):
        self.n, self.unreadable, self.sizes, self.last = n, unreadable, [], None

    def __len__(self):
        return self.n

    def read(self, chosen):
        assert self.last is None or self.last() is None  # the batch before has been let go
        chosen = np.arange(self.n)[chosen]
        self.sizes.append(len(chosen))
        good = ~np.isin(chosen, list(self.unreadable))
        batch = chosen[good].astype(np.float32)
        self.last = weakref.ref(batch)
        return batch, good


def test_arrays_are_taken_from_as_they_are():
    images, labels = np.arange(12.0).reshape(6, 2), np.arange(6)
    for chosen in (slice(1, 4), np.array([5, 0]), [3, 3]):
        some, known = take(images, labels, chosen)
        assert np.array_equal(some, images[chosen])
        assert np.array_equal(known, labels[chosen])
        assert read(images, chosen)[1].tolist() == [True] * len(some)


# --- scored ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, BATCH, BATCH + 1, 3 * BATCH])
def test_images_are_read_a_batch_at_a_time_and_let_go(n):
    images = Fake(n)
    outputs, labels = predict_batches(lambda batch: 2 * batch, images, 3 * np.arange(n))
    assert outputs.tolist() == (2 * np.arange(n)).tolist()
    assert labels.tolist() == (3 * np.arange(n)).tolist()
    assert max(images.sizes) <= BATCH
    assert len(images.sizes) == -(-n // BATCH)
    assert map_batches(lambda batch: 2 * batch, images).tolist() == outputs.tolist()


def test_answers_are_of_the_images_that_can_be_read():
    asked = []

    def function(batch):
        asked.append(len(batch))
        return -batch

    n = 3 * BATCH
    bad = {0, 7, n - 1, *range(BATCH, 2 * BATCH)}  # the whole of the second batch
    good = [i for i in range(n) if i not in bad]
    outputs, labels = predict_batches(function, Fake(n, bad), np.arange(n) + 1)
    assert outputs.tolist() == [-i for i in good]
    assert labels.tolist() == [i + 1 for i in good]
    assert asked == [BATCH - 2, BATCH - 1]
    with pytest.raises(ValueError, match="no image that could be read"):
        predict_batches(function, Fake(3, {0, 1, 2}), np.arange(3))


def small_model():
    config = ViTConfig(8, 4, 3, classes=3, width=8, depth=1, heads=2, mlp_width=8)
    model = ViT.create(config, seed=1)
    model.params["head"]["kernel"][:] = np.random.default_rng(2).normal(size=(8, 3))
    return model


def test_a_score_is_of_the_images_that_can_be_read(zoo):
    model, d = small_model(), load_folder(zoo, (8, 8))
    good = np.ones(len(d.images), dtype=bool)
    good[[0, 3, 40, 46]] = False
    expected = evaluate(model, d.images[good], d.labels[good])
    for file in d.images.files[~good]:
        spoil(Path(file))
    assert evaluate(model, d.images, d.labels) == expected
    assert isinstance(expected, Score)
    assert expected != evaluate(model, d.images[good], d.labels[:43])  # labels do matter


# --- fitted ----------------------------------------------------------------------------------


def test_images_that_have_been_read_in_the_right_size_stay_as_they_are(zoo):
    d = load_folder(zoo, (8, 8))
    assert resize_dataset(d, (8, 8), 3) is d
    grey = load_folder(zoo, (8, 8), 1)
    assert resize_dataset(grey, (8, 8), 1) is grey


@pytest.mark.parametrize("family", PREPROCESSINGS)
def test_a_model_is_trained_on_pictures_as_it_will_be_shown_them(tmp_path, family):
    # By the same rules that `read_image` follows when a file is to be named.
    rng = np.random.default_rng(0)
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        path = paint(tmp_path / name)
        Image.fromarray(rng.integers(0, 256, (20, 36, 3), dtype=np.uint8)).save(path)
    d = resize_dataset(load_folder(tmp_path, (8, 8), preprocessing=family), (8, 8), 3, family)
    (first, *_), image = d.images.files, d.images[[0]][0]
    np.testing.assert_allclose(image, read_image(first, (8, 8), 3, family), rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (16, 12)])
def test_another_size_or_mean_is_fitted_as_the_images_are_read(zoo, size):
    d = load_folder(zoo, (8, 8))
    how = get_preprocessing("dino", size)
    chosen = np.array([4, 1, 30])
    plain = d.images[chosen]
    spoil(Path(d.images.files[1]))
    fitted = resize_dataset(d, size, 3, "dino").images
    assert isinstance(fitted, ResizedImages)
    images, good = fitted.read(chosen)
    assert good.tolist() == [True, False, True]
    expected = (plain[good, :1, :1] + 1) / 2  # each is of one shade
    mean, deviation = np.float32(how.mean), np.float32(how.std)
    expected = np.broadcast_to((expected - mean) / deviation, (2, *size, 3))
    assert images.dtype == np.float32
    np.testing.assert_allclose(images, expected, rtol=0, atol=2e-6)
    assert fitted.unreadable == d.images.unreadable == {d.images.files[1]}
    assert fitted.read([1])[0].shape == (0, *size, 3)
    with pytest.raises(ValueError, match="cannot be read"):
        fitted[chosen]


def test_a_fingerprint_is_of_the_files_also_where_they_are_fitted(zoo):
    before = load_folder(zoo, (4, 4))
    (zoo / "cat" / "00.png").rename(zoo / "cat" / "000.png")
    after = load_folder(zoo, (4, 4))
    for how in ("minivit", "imagenet"):
        fitted = [fingerprint(resize_dataset(d, (4, 4), 3, how)) for d in (before, after)]
        assert fitted == [fingerprint(before), fingerprint(after)]
    assert fingerprint(before) != fingerprint(after)


def test_an_array_that_is_fitted_can_always_be_read():
    fitted = resize_dataset(load_digits(n=20), (16, 16), 3).images
    images, good = fitted.read(slice(3, 9))
    assert good.tolist() == [True] * 6
    assert np.array_equal(images, fitted[3:9])
    assert fitted.unreadable == set()
