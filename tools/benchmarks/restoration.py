"""Images restored per second: the batched search of maxima, against Python loops over images.

The model is a dense decoder K-H-784 with random weights, tanh inside, half of the pixels hidden. Each image is searched
from the same number of starts. Contenders, in a process of their own each, in turn: (a) one compiled program over all
images and starts; (b) a Python loop that calls the same compiled search on one image at a time; (c) a Python loop over
images and over 600 steps of Adam (200 each at 1e-1, 1e-2, 1e-3), a compiled step for all starts of an image at a time,
as notebooks do; it does a sixteenth of the images, over which the mean log joint of the maxima is compared.
"""

import functools
import math
from typing import Any

import numpy as np
from command import positive

from benchmarks._rounds import Baton, Contender, alternate, cores, load, median, ratio, table

BATCHED, LOOPED, STEPPED = "(a) batched", "(b) loop over images", "(c) loop over images and steps"
PIXELS, SIGMA, AIM = 784, 0.1, 20.0
ADAM = ((1e-1, 200), (1e-2, 200), (1e-3, 200))

Cases = dict[str, dict[str, float]]


def add_arguments(parser) -> None:
    parser.add_argument("--images", type=positive, default=64, help="images to restore (default: 64)")
    parser.add_argument("--starts", type=positive, default=8, help="starts of each image (default: 8)")
    parser.add_argument("--latents", type=positive, default=8, help="K, the size of the latent space (default: 8)")
    parser.add_argument("--width", type=positive, default=64, help="H, the width of the decoder (default: 64)")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each contender (default: 5)")


def run(args) -> Cases:
    before = load()
    print(f"{cores()} cores, load {before:.2f}; {args.images} images, {args.starts} starts, decoder {args.latents}-"
          f"{args.width}-{PIXELS}; rounds: {args.rounds}", flush=True)
    options = {name: getattr(args, name) for name in ("images", "starts", "latents", "width")}
    field = [Contender(BATCHED, batched, options), Contender(LOOPED, looped, options),
             Contender(STEPPED, stepped, options)]
    turns = alternate(field, args.rounds, lambda text: print(text, flush=True))
    cases = summary(turns)
    print(f"\nload {before:.2f} before, {load():.2f} after", flush=True)
    return cases


def summary(turns: dict[str, list[dict[str, float]]]) -> Cases:
    """Prints the tables and returns their numbers; `ms` of a turn is per image."""
    rows = {
        name: {"ms_per_image": median(found, "ms"), "cpu_ms_per_image": median(found, "cpu_ms"),
               "images_per_s": 1e3 / median(found, "ms"), "log_joint": median(found, "log_joint"),
               "setup_s": median(found, "setup_s")}
        for name, found in turns.items()
    }
    head = ("contender", "images/s", "ms/image", "cpu ms/image", "mean log joint", "set-up s")
    body = [(name, f"{r['images_per_s']:.1f}", f"{r['ms_per_image']:.2f}", f"{r['cpu_ms_per_image']:.2f}",
             f"{r['log_joint']:.2f}", f"{r['setup_s']:.1f}") for name, r in rows.items()]
    print(f"\n{table(head, body)}\n", flush=True)
    ratios = {}
    for name, short in ((LOOPED, "loop/batched"), (STEPPED, "loop of steps/batched")):
        ratios[short] = ratio(turns[name], turns[BATCHED])
        ratios[f"{short} (cpu)"] = ratio(turns[name], turns[BATCHED], "cpu_ms")
    body = []
    for name, value in ratios.items():
        judged = "" if "cpu" in name else "reached" if value >= AIM else "MISSED"
        body.append((name, f"{value:.1f}", f">= {AIM:g}" if judged else "", judged))
    print(table(("ratio of times per image", "value", "aim", ""), body), flush=True)
    return {**{f"restoration/{name}": row for name, row in rows.items()}, "restoration/ratios": ratios}


# ---- the work of the contenders ----------------------------------------------------------------------------


def make_problem(y, latents: int, width: int):
    """Returns the posterior of u given the right half of images y (batch, 784) of the random decoder."""
    import tensorflow as tf

    from pae_zoo import inference

    inner, outer = (tf.constant(a, tf.float32) for a in weights(latents, width))

    def decode(u):
        return tf.einsum("...h,hd->...d", tf.tanh(tf.einsum("...k,kh->...h", u, inner)), outer)

    def log_prior(u):
        return -0.5 * tf.reduce_sum(u**2, axis=-1) - 0.5 * latents * math.log(2 * math.pi)

    observation = inference.Gaussian(tf.identity, lambda g: tf.fill(tf.shape(g), SIGMA**2), constant_variance=True)
    return inference.Problem(log_prior, decode, observation, y, np.arange(PIXELS) % 28 >= 14)


def weights(latents: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the decoder's two matrices."""
    generator = np.random.default_rng(0)
    outer = generator.normal(size=(width, PIXELS)) * 0.3 / math.sqrt(width)
    return generator.normal(size=(latents, width)) * 1.5 / math.sqrt(latents), outer


def make_data(images: int, starts: int, latents: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns images of the model (images, 784), noise included, and starts (starts, images, K)."""
    generator = np.random.default_rng(1)
    inner, outer = weights(latents, width)
    y = np.tanh(generator.normal(size=(images, latents)) @ inner) @ outer
    y = y + SIGMA * generator.normal(size=y.shape)
    first = np.broadcast_to(generator.normal(size=(starts, 1, latents)), (starts, images, latents))
    return y.astype(np.float32), first.astype(np.float32)


def _compiled_search(latents: int, width: int):
    import tensorflow as tf

    from pae_zoo import inference

    def search(y, starts):
        return tf.reduce_max(inference.find_modes(make_problem(y, latents, width), starts).log_joint, axis=0)

    return tf.function(search, jit_compile=True, autograph=False)


def batched(baton: Baton, **options: Any) -> None:
    """Contender (a)."""
    y, starts = make_data(**options)
    search = _compiled_search(options["latents"], options["width"])
    _turns(baton, lambda: search(y, starts).numpy(), len(y), options)


def looped(baton: Baton, **options: Any) -> None:
    """Contender (b)."""
    y, starts = make_data(**options)
    search = _compiled_search(options["latents"], options["width"])
    _turns(baton, lambda: np.concatenate([search(y[i : i + 1], starts[:, i : i + 1]).numpy() for i in range(len(y))]),
           len(y), options)


def stepped(baton: Baton, **options: Any) -> None:
    """Contender (c), on a sixteenth of the images in a turn."""
    y, starts = make_data(**options)
    some = _compared(**options)
    search = functools.partial(_adam_alone, _adam_step(options["latents"], options["width"]))
    _turns(baton, lambda: np.array([search(y[i : i + 1], starts[:, i : i + 1]) for i in range(some)]), some, options)


def _compared(images: int, **_: int) -> int:
    """Returns over how many of the images the maxima are compared."""
    return max(1, images // 16)


def _turns(baton: Baton, work, images: int, options: dict[str, int]) -> None:
    while True:
        baton.start()
        found = work()
        baton.stop(images, log_joint=float(found[: _compared(**options)].mean()))


def _adam_step(latents: int, width: int):
    import tensorflow as tf

    from pae_zoo.inference import derivatives

    def step(y, u, m, v, t, rate):
        value, gradient = derivatives.value_and_gradient(make_problem(y, latents, width).log_joint, u)
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        return u + rate * (m / (1 - 0.9**t)) / (tf.sqrt(v / (1 - 0.999**t)) + 1e-8), m, v, value

    return tf.function(step, jit_compile=True, autograph=False)


def _adam_alone(step, y: np.ndarray, starts: np.ndarray) -> float:
    """Returns the log joint of the best start after the steps of Adam, each a call from Python."""
    import tensorflow as tf

    u, m, v, t, value = starts, np.zeros_like(starts), np.zeros_like(starts), 0, None
    for rate, count in ADAM:
        for _ in range(count):
            t += 1
            u, m, v, value = step(y, u, m, v, tf.constant(t, tf.float32), tf.constant(rate))
    return float(value.numpy().max())
