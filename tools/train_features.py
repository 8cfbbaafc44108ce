"""Trains the small classifier whose penultimate layer gives the features of the Frechet distance of a set.

  python tools/train_features.py --dataset=fashion_mnist --data_dir=DATA
  python tools/train_features.py --dataset=folder:MY_IMAGES --out=mine.npz

Trains on the training split only, validation data left out, and measures the accuracy on the test split once, after
training, with the weights rounded to 16 bits as they are stored. The file holds weights and a note: architecture,
seed, steps, accuracy, hash. The evaluation finds a set's own file in pae_zoo/evaluation/extractors; any other is
given as --fid_weights=FILE. A new file means numbers that do not compare with those of the old one.
"""

import sys
from pathlib import Path

from command import Parser, natural, positive, told, use_package
from command import path as path_of

LEARNING_RATE = 2e-3


@told
def main(argv: list[str]) -> int:
    parser = Parser(prog="train_features", description=__doc__)
    parser.add_argument("--dataset", required=True, help="labelled image set in the grammar of pae_zoo.main")
    parser.add_argument("--data_dir", default="", type=path_of, help="folder that holds data sets as files")
    parser.add_argument("--epochs", type=positive, default=8, help="passes over the training data (default: 8)")
    parser.add_argument("--batch_size", type=positive, default=128, help="images per step (default: 128)")
    parser.add_argument("--seed", type=natural, default=0, help="chooses initial weights and data order (default: 0)")
    parser.add_argument("--out", default="", type=path_of, help="file to write (default: the set's own in the package)")
    args = parser.parse_args(argv)
    use_package()
    from pae_zoo.core.errors import UserError

    try:
        note, path = train(args)
    except UserError as error:
        parser.error(str(error).rstrip("."))
    size = path.stat().st_size
    print(f"{args.dataset}: test accuracy {note['test_accuracy']:.4f} on {note['num_test']:,} images")
    print(f"{path}: {note['num_weights']:,} weights, {size:,} bytes, sha256 {note['sha256']}")
    return 0


def train(args) -> tuple[dict, Path]:
    """Trains, measures and writes; returns (note, path). Raises UserError for a set without images or labels."""
    import numpy as np

    from pae_zoo import data
    from pae_zoo.core import files
    from pae_zoo.core.errors import UserError
    from pae_zoo.evaluation.features import choice, extractor

    dataset = data.load(args.dataset, data_dir=args.data_dir)
    if len(dataset.event_shape) != 3 or dataset.train.y is None:
        raise UserError(
            f"--dataset={args.dataset} has data of shape {dataset.event_shape} and "
            f"{'no ' if dataset.train.y is None else ''}labels; a classifier needs images with labels"
        )
    path = Path(args.out) if args.out else choice.FOLDER / f"{dataset.slug}.npz"
    if not path.resolve().parent.is_dir() or path.suffix != ".npz":
        raise UserError(f"--out={path} is not a .npz file in an existing folder")
    files.check_place(path, "out", is_file=True)
    num_classes = int(max(dataset.train.y.max(), dataset.test.y.max())) + 1
    model, steps = fit(dataset, num_classes, args)
    weights = [array.astype(np.float16) for array in model.get_weights()]
    model.set_weights([array.astype(np.float32) for array in weights])
    logits = model.predict(dataset.test.unit(), batch_size=extractor.BATCH, verbose=0)
    note = dict(
        dataset=args.dataset, input_shape=dataset.event_shape, num_classes=num_classes, filters=extractor.FILTERS,
        strides=extractor.STRIDES, num_features=extractor.NUM_FEATURES,
        architecture="3x3 convolutions, a dense layer (the features), ReLU; a linear layer",
        augmentation="each image shifted by up to 1/14 of its side", split="training split, validation left out",
        num_train=len(dataset.train), seed=args.seed, epochs=args.epochs, steps=steps, batch_size=args.batch_size,
        optimizer=f"Adam, {LEARNING_RATE}, cosine to 0", num_weights=model.count_params(), num_test=len(dataset.test),
        test_accuracy=float((logits.argmax(axis=1) == dataset.test.y).mean()),
    )  # fmt: skip
    with files.file(path) as temporary:
        note = extractor.save(temporary, weights, note)
    return note, path


def fit(dataset, num_classes: int, args):
    """Returns (trained classifier, steps taken)."""
    import keras

    from pae_zoo.core import seeds
    from pae_zoo.evaluation.features import extractor

    x, y = dataset.train.unit(), dataset.train.y
    model = extractor.classifier(dataset.event_shape, num_classes, seed=args.seed)
    steps = args.epochs * -(-len(x) // args.batch_size)
    model.compile(
        keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # on a CPU XLA makes convolutions slower
    )
    for epoch in range(args.epochs):
        order_seed, shift_seed = seeds.split((args.seed, epoch), 2)
        order = seeds.permutation(len(x), order_seed).numpy()
        images = shifted(x, shift_seed)[order]
        history = model.fit(images, y[order], args.batch_size, epochs=1, shuffle=False, verbose=0).history
        loss, accuracy = history["loss"][0], history["accuracy"][0]
        print(f"epoch {epoch + 1}/{args.epochs}: loss {loss:.4f} accuracy {accuracy:.4f}", flush=True)
    return model, steps


def shifted(x, seed):
    """Returns images (n, H, W, C), each shifted by up to 1/14 of a side, its edge repeated."""
    import numpy as np

    from pae_zoo.core import seeds

    reach = min(x.shape[1:3]) // 14
    side = 2 * reach + 1
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    chosen = (seeds.uniform((len(x),), seed).numpy() * side**2).astype(int)
    moved = np.empty_like(x)
    for shift in range(side**2):
        rows, (top, left) = chosen == shift, divmod(shift, side)
        moved[rows] = padded[rows, top : top + x.shape[1], left : left + x.shape[2]]
    return moved


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
