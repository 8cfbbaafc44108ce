"""Folders and zip archives of images: splits, labels, sizes, Omniglot and CelebA."""

import zipfile

import numpy as np
import pytest
from data_files import png_bytes, write_png

from pae_zoo import data
from pae_zoo.core.errors import UserError

RNG = np.random.default_rng(0)


def image(height=8, width=6, channels=1):
    return RNG.integers(0, 256, (height, width, channels)[: 2 + (channels > 1)]).astype(np.uint8)


def rows_of(dataset):
    return np.concatenate([split.x for split in (dataset.train, dataset.valid, dataset.test)])


def test_plain_folder_is_sorted_and_unlabelled(tmp_path):
    pictures = [image() for _ in range(12)]
    for number in RNG.permutation(12):
        write_png(tmp_path / f"{number:02}.png", pictures[number])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_bytes(b"no image")
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.train.y is None and loaded.event_shape == (8, 6, 1) and loaded.train.x.dtype == np.uint8
    held_out = np.sort(np.random.default_rng(42).permutation(12)[-2:])
    np.testing.assert_array_equal(loaded.test.x[..., 0], [pictures[i] for i in held_out])
    with pytest.raises(UserError, match="needs labels"):
        data.load(f"folder:{tmp_path}", classes=(0,))


def test_subfolders_are_labels_and_one_colour_image_makes_all_rgb(tmp_path):
    for label, name in enumerate(["cat", "dog"]):
        for number in range(6):
            write_png(tmp_path / name / f"{number}.png", np.full((4, 4), 10 * label + number, np.uint8))
    write_png(tmp_path / "dog" / "7.png", np.full((4, 4, 3), (17, 0, 0), np.uint8))
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.label_names == ("cat", "dog") and loaded.event_shape == (4, 4, 3)
    for split in (loaded.train, loaded.valid, loaded.test):
        np.testing.assert_array_equal(split.x[:, 0, 0, 0] // 10, split.y)
    only = data.load(f"folder:{tmp_path}", classes=(1,))
    assert set(only.train.y) == {1} and len(only.train) + len(only.valid) + len(only.test) < 13
    with pytest.raises(UserError, match="labels present: 0,1"):
        data.load(f"folder:{tmp_path}", classes=(1, 5))


def test_numeric_folders_keep_their_numbers(tmp_path):
    for name in ("3", "10"):
        for number in range(4):
            write_png(tmp_path / name / f"{number}.png", np.full((4, 4), int(name), np.uint8))
    loaded = data.load(f"folder:{tmp_path}")
    assert set(loaded.train.y) == {3, 10}
    np.testing.assert_array_equal(loaded.train.x[:, 0, 0, 0], loaded.train.y)


@pytest.mark.parametrize("zipped", [False, True])
def test_train_and_test_folders_are_splits(tmp_path, zipped):
    files = {f"{split}/{label}/{n}.png": np.full((4, 4), n, np.uint8) for split in ("train", "test")
             for label in "ab" for n in range(3 if split == "train" else 2)}  # fmt: skip
    files["extra/c/0.png"] = image(9, 9)  # neither split: left out
    if zipped:
        (tmp_path / "mnist").mkdir()
        with zipfile.ZipFile(tmp_path / "mnist" / "x.zip", "w") as archive:
            for name, pixels in files.items():
                archive.writestr(f"root/{name}", png_bytes(pixels))
        loaded = data.load("mnist", data_dir=str(tmp_path))
    else:
        for name, pixels in files.items():
            write_png(tmp_path / name, pixels)
        loaded = data.load(f"folder:{tmp_path}")
    assert len(loaded.test) == 4 and len(loaded.train) + len(loaded.valid) == 6
    assert loaded.test.y.tolist() == [0, 0, 1, 1] and loaded.label_names == ("a", "b")


def test_mixed_sizes_become_the_median_unless_a_size_or_a_crop_is_given(tmp_path):
    for number in range(6):
        write_png(tmp_path / f"{number}.png", image(8 + number, 10))
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.event_shape == (10, 10, 1)
    assert "sizes from 8x10 to 13x10: images are resized and cropped to 10x10" in loaded.info.notes[-1]
    assert data.load(f"folder:{tmp_path}", image_size=5).event_shape == (5, 5, 1)
    assert data.load(f"folder:{tmp_path}", crop="6,7").event_shape == (6, 7, 1)
    with pytest.raises(UserError, match="does not fit into an image of 8x10"):
        data.load(f"folder:{tmp_path}", crop="9,9")


def test_geometry_of_arrays_and_files_agree(tmp_path):
    pictures = np.stack([image(12, 10, 3) for _ in range(6)])
    for number, pixels in enumerate(pictures):
        write_png(tmp_path / "f" / f"{number}.png", pixels)
    np.savez(tmp_path / "a.npz", x=pictures)
    np.savez(tmp_path / "float.npz", x=pictures / 255.0)
    options = dict(crop="1,0,10,10", image_size=5, grey=True, invert=True)
    files = data.load(f"folder:{tmp_path / 'f'}", **options)
    arrays = data.load(f"npz:{tmp_path / 'a.npz'}", **options)
    floats = data.load(f"npz:{tmp_path / 'float.npz'}", **options)
    assert files.event_shape == (5, 5, 1) and floats.train.x.dtype == np.float32
    np.testing.assert_array_equal(files.train.x, arrays.train.x)
    np.testing.assert_allclose(floats.train.unit(), files.train.unit(), atol=1.5 / 255)


def test_crop_takes_the_named_rows(tmp_path):
    pixels = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8)
    np.savez(tmp_path / "a.npz", x=np.stack([pixels] * 6))
    loaded = data.load(f"npz:{tmp_path / 'a.npz'}", crop="1,2,3,4")
    np.testing.assert_array_equal(loaded.test.x[0, ..., 0], pixels[1:4, 2:6])
    centred = data.load(f"npz:{tmp_path / 'a.npz'}", crop="4,4")
    np.testing.assert_array_equal(centred.test.x[0, ..., 0], pixels[1:5, 2:6])
    for crop in ("3", "a,b", "0,4", "1,2,3", "-1,0,2,2", "9,9"):
        with pytest.raises(UserError, match="crop="):
            data.load(f"npz:{tmp_path / 'a.npz'}", crop=crop)


@pytest.mark.parametrize("content", [b"", b"no image", png_bytes(np.zeros((9, 9), np.uint8))[:40]])
def test_unreadable_images_are_named(tmp_path, content):
    for number in range(5):
        write_png(tmp_path / f"{number}.png", image(9, 9))
    (tmp_path / "3.png").write_bytes(content)
    with pytest.raises(UserError, match="3.png is not a readable image") as caught:
        data.load(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_images_of_reals_are_refused(tmp_path):
    from PIL import Image

    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "0.tif")
    with pytest.raises(UserError, match="8 bits a channel"):
        data.load(f"folder:{tmp_path}")


def test_empty_or_missing_folders(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        data.load(f"folder:{tmp_path / 'empty'}")
    with pytest.raises(UserError, match="does not exist"):
        data.load(f"folder:{tmp_path / 'none'}")
    (tmp_path / "mnist").mkdir()
    with pytest.raises(UserError, match="holds no files; allowed: IDX"):
        data.load("mnist", data_dir=str(tmp_path))
    (tmp_path / "mnist" / "broken.zip").write_bytes(b"PK not really")
    with pytest.raises(UserError, match="not a readable zip"):
        data.load("mnist", data_dir=str(tmp_path))


def omniglot_names(drawers=20):
    return [
        f"{a}/character{c:02}/{c:04}_{d:02}.png"
        for a, c in (("Alpha", 1), ("Beta", 1))
        for d in range(1, drawers + 1)
    ]


def test_omniglot_is_inverted_and_shrunk_and_drawers_are_held_out(tmp_path):
    drawing = np.full((105, 105), 255, np.uint8)
    drawing[:, 40:60] = 0  # black stroke on white paper
    (tmp_path / "omniglot").mkdir()
    with zipfile.ZipFile(tmp_path / "omniglot" / "images_background_small1.zip", "w") as archive:
        for name in omniglot_names():
            archive.writestr(f"images_background_small1/{name}", png_bytes(drawing > 0))
    loaded = data.load("omniglot", data_dir=str(tmp_path))
    assert loaded.event_shape == (28, 28, 1) and len(loaded.test) == 8
    assert loaded.label_names == ("Alpha/character01", "Beta/character01")
    assert loaded.train.x[0, 14, 13, 0] == 255 and loaded.train.x[0, 14, 0, 0] == 0
    assert abs(loaded.train.unit().mean() - 20 / 105) < 0.01
    negative = data.load("omniglot", data_dir=str(tmp_path), invert=True, image_size=35)
    assert negative.event_shape == (35, 35, 1) and negative.train.x[0, 17, 0, 0] == 255


def test_omniglot_background_and_evaluation_are_the_splits(tmp_path):
    for part, count in (("images_background", 3), ("images_evaluation", 2)):
        for name in omniglot_names(count):
            write_png(tmp_path / part / name, np.full((105, 105), 255, np.uint8))
    loaded = data.load("omniglot", data_dir=str(tmp_path))  # flat
    assert len(loaded.train) + len(loaded.valid) == 6 and len(loaded.test) == 4


def write_celeba(folder, partition, shape=(218, 178, 3)):
    for number in range(1, 13):
        pixels = np.zeros(shape, np.uint8)
        pixels[45:173, 25:153] = number * 10
        write_png(folder / "img_align_celeba" / f"{number:06}.png", pixels)
    if partition:
        (folder / "list_eval_partition.txt").write_text(partition)


PARTITION = "".join(f"{n:06}.png {0 if n <= 7 else 1 if n <= 9 else 2}\n" for n in range(1, 13))


@pytest.mark.parametrize("kaggle", [False, True])
def test_celeba_crop_and_official_splits(tmp_path, kaggle):
    write_celeba(tmp_path / "celeb_a", PARTITION)
    if kaggle:
        (tmp_path / "celeb_a" / "list_eval_partition.txt").unlink()
        text = "image_id,partition\n" + PARTITION.replace(" ", ",")
        (tmp_path / "celeb_a" / "list_eval_partition.csv").write_text(text)
    loaded = data.load("celeb_a", data_dir=str(tmp_path))
    assert loaded.event_shape == (64, 64, 3)
    assert (len(loaded.train), len(loaded.valid), len(loaded.test)) == (7, 2, 3)
    # The crop is exactly rows 45 to 172 and columns 25 to 152: nothing of the black frame is left.
    np.testing.assert_array_equal(loaded.test.x[:, :, :, 0].reshape(3, -1).min(1), [100, 110, 120])
    assert sorted(loaded.train.x[:, 0, 0, 0]) == [10, 20, 30, 40, 50, 60, 70]
    small = data.load("celeb_a", data_dir=str(tmp_path), image_size=32, num_train=2, grey=True)
    assert small.train.x.shape == (2, 32, 32, 1)


@pytest.mark.parametrize(
    "partition, message",
    [
        ("", "without list_eval"),
        (PARTITION + "000099.png 0\n", "lacks 000099.png"),
        ("000001.png seven\n", "line 1"),
    ],
)
def test_broken_celeba(tmp_path, partition, message):
    write_celeba(tmp_path / "celeb_a", partition)
    with pytest.raises(UserError, match=message):
        data.load("celeb_a", data_dir=str(tmp_path))


def test_images_are_resized_until_they_cover_the_median_and_cropped(tmp_path):
    """A wide ramp keeps its middle, and images of the median size stay what they are."""
    ramp = np.tile(np.linspace(0, 240, 40).astype(np.uint8), (10, 1))
    for number in range(7):
        plain = image(10, 10)
        write_png(tmp_path / f"train/{number}.png", plain)
        write_png(tmp_path / f"test/{number}.png", ramp if number == 0 else plain)
        last = plain
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.event_shape == (10, 10, 1)
    np.testing.assert_array_equal(loaded.test.x[0, ..., 0], ramp[:, 15:25])
    np.testing.assert_array_equal(loaded.test.x[-1, ..., 0], last)


def test_photos_as_cameras_write_them(tmp_path):
    """A JPEG that says how the camera was held is turned upright, 16 bits keep their upper half, palettes and CMYK
    are colour."""
    from PIL import Image

    pixels = np.zeros((8, 16), np.uint8)
    pixels[:4, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned to the left: the picture is to be turned to the right
    for number in range(6):
        Image.fromarray(pixels).save(tmp_path / f"{number}.jpg", exif=exif, quality=100)
    loaded = data.load(f"folder:{tmp_path}")
    assert loaded.event_shape == (16, 8, 1)
    np.testing.assert_allclose(loaded.train.x[0, ..., 0], np.rot90(pixels, -1), atol=2)
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040
    for kind in ("png", "pgm"):
        folder = tmp_path / kind
        folder.mkdir()
        for number in range(6):
            if kind == "png":
                Image.fromarray(deep).save(folder / f"{number}.png")
            else:
                (folder / f"{number}.pgm").write_bytes(b"P5 8 8 65535\n" + deep.astype(">u2").tobytes())
        found = data.load(f"folder:{folder}")
        np.testing.assert_array_equal(found.test.x[0, ..., 0], np.rint(deep / 257))
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[..., 0] = 204  # of the palette that Pillow takes
    for mode, ending in (("P", "png"), ("CMYK", "tif"), ("RGBA", "png")):
        folder = tmp_path / mode
        folder.mkdir()
        for number in range(6):
            Image.fromarray(colour).convert(mode).save(folder / f"{number}.{ending}")
        found = data.load(f"folder:{folder}")
        np.testing.assert_allclose(found.test.x[0], colour, atol=1)


def test_what_is_transparent_lies_on_white(tmp_path):
    """Of a grey g whose opacity is a, in 255ths, white is what the rest of it lets through."""
    from PIL import Image

    opacity = np.repeat(np.array([[0, 51, 204, 255]], np.uint8), 4, axis=0)
    grey = np.full((4, 4), 100, np.uint8)
    shown = 255 - (255 - 100) * opacity.astype(float) / 255
    for mode, planes in (("LA", (grey, opacity)), ("RGBA", (grey, grey, grey, opacity))):
        (tmp_path / mode).mkdir()
        for number in range(6):
            Image.fromarray(np.stack(planes, axis=-1), mode).save(tmp_path / mode / f"{number}.png")
        found = data.load(f"folder:{tmp_path / mode}").test.x[0]
        np.testing.assert_allclose(found, np.repeat(shown[..., None], found.shape[-1], axis=-1), atol=1)
    (tmp_path / "P").mkdir()
    palette = Image.fromarray((opacity > 0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 10, 20, 30])
    for number in range(6):
        palette.save(tmp_path / "P" / f"{number}.png", transparency=0)
    found = data.load(f"folder:{tmp_path / 'P'}").test.x[0]
    assert found[0, 0].tolist() == [255, 255, 255] and found[0, 1].tolist() == [10, 20, 30]


def test_unreadable_images_are_left_out_up_to_a_number(tmp_path):
    for number in range(9):
        write_png(tmp_path / f"{'ab'[number % 2]}/{number}.png", image(8, 8))
    whole = (tmp_path / "a/0.png").read_bytes()
    (tmp_path / "a/cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b/none.png").write_bytes(b"no picture")
    for most in (0, 1):
        with pytest.raises(UserError, match="cut.png|none.png"):
            data.load(f"folder:{tmp_path}", bad_files=most)
    loaded = data.load(f"folder:{tmp_path}", bad_files=2)
    assert len(loaded.train) + len(loaded.valid) + len(loaded.test) == 9
    assert sum("left out" in note and (".png" in note) for note in loaded.info.notes) == 2
    with pytest.raises(UserError, match="folders of images"):
        data.load("digits", bad_files=1)
