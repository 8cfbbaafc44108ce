"""Cases: files of CIFAR-100, chardata.mat and CelebA's attributes."""

import io
import pickle

import numpy as np
from kit import Canary, add, folder, tiny, truncated, write
from scipy import io as scipy_io


def table():
    cifar100()
    chardata()
    words()


def _tiny(d, name, *more):
    return tiny(d, f"--dataset={name}", f"--data_dir={d}/data", "--device=cpu", *more)


def cifar100():
    def case(name, content, says="train.bin"):
        def make(d):
            place = d / "data" / "cifar100"
            write(place / "test.bin", bytes(3074 * 30))
            write(place / "train.bin", content(d) if callable(content) else content)
            return _tiny(d, "cifar100")

        add("cifar100", name, make, says=says, lines=3)

    case("empty", b"")
    case("odd", bytes(3074 * 30 - 1))
    case("label-200", bytes([0, 200]) + bytes(3072))
    case("ten", bytes(3073 * 3))

    def python(d):
        place = d / "data" / "cifar100"
        write(place / "test", pickle.dumps({b"data": np.zeros((3, 3072), np.uint8), b"fine_labels": [0] * 3}))
        write(place / "train", pickle.dumps(Canary(d / "CANARY")))
        return _tiny(d, "cifar100")

    add("cifar100", "code", python, says="train", lines=3)

    def is_folder(d):
        write(d / "data" / "cifar100" / "test.bin", bytes(3074))
        folder(d / "data" / "cifar100" / "train.bin")
        return _tiny(d, "cifar100")

    add("cifar100", "folder", is_folder, says="train.bin", lines=3)


def chardata():
    def file(**changes):
        found = {f"{prefix}{name}": np.zeros((rows, 30)) for prefix in ("", "test")
                 for name, rows in (("data", 784), ("target", 50))}  # fmt: skip
        out = io.BytesIO()
        scipy_io.savemat(out, {**found, **changes}, do_compression=True)
        return out.getvalue()

    def case(name, content, change=None):
        def make(d):
            path = write(d / "data" / "omniglot" / "chardata.mat", content)
            if change:
                change(path)
            return _tiny(d, "omniglot")

        add("chardata", name, make, says="chardata.mat", lines=3)

    case("empty", b"")
    case("text", b"no MATLAB file")
    case("truncated", file(), truncated)
    case("rows", file(data=np.zeros((783, 30))))
    case("nan", file(testdata=np.full((784, 30), np.nan)))
    case("words", file(data=np.array(["a"])))
    case("cells", file(data=np.array([{1}], object).astype(str)))
    case("no-drawings", file(data=np.zeros((784, 0)), target=np.zeros((50, 0))))
    case("fewer-targets", file(target=np.zeros((50, 7))))


def words():
    for flag, says in (("--num_train_per_class=-1", "num_train_per_class"), ("--augment=pad_crp", "pad_crop"),
                       ("--preprocess=standardise_channel", "standardise_channels"), ("--lr_drops=60,20", "lr_drops"),
                       ("--lr_drops=0", "lr_drops"), ("--lr_drops=abc", "lr_drops"),
                       ("--lr_schedule=plateu", "plateau"),
                       ("--adam_beta1=1", "adam_beta1"), ("--adam_beta2=-0.1", "adam_beta2"),
                       ("--lr_factor=2", "lr_factor"), ("--lr_stretch=0.5", "lr_stretch"),
                       ("--picture_epochs=-1", "picture_epochs"), ("--keep_checkpoints=-2", "keep_checkpoints")):
        add("originals", flag.lstrip("-"), lambda d, flag=flag: tiny(d, flag), says=says, lines=3)
    add("originals", "both-clips", lambda d: tiny(d, "--clip_norm=1", "--clip_value=1"), says="exclude", lines=3)
    add("originals", "plateau-warmup", lambda d: tiny(d, "--lr_schedule=plateau", "--lr_warmup=5"), says="lr_warmup",
        lines=3)  # fmt: skip
    add("originals", "pictures-of-vectors", lambda d: tiny(d, "--dataset=circle", "--picture_epochs=1"),
        says="picture_epochs", lines=3)  # fmt: skip
