"""Cases: data and flags that do not fit each other."""

import numpy as np
from kit import add, savez, tiny


def table():
    misfit_cases()


def misfit_cases():
    def case(name, *flags, **how):
        model = how.pop("model", "ae")
        add("misfit", name, lambda d: tiny(d, *flags, model=model), **how)

    def vectors(name, array, *flags, **how):
        model = how.pop("model", "vae")
        add(
            "misfit",
            name,
            lambda d: tiny(d, f"--dataset=npz:{savez(d / 'v.npz', x=array())}", *flags, model=model),
            **how,
        )

    circle = "--dataset=circle"
    case("dequantise-on-circle", circle, "--preprocess=dequantise", model="vae", says=("dequantise", "preprocess"))
    case("binarise_static-on-circle", circle, "--preprocess=binarise_static", model="vae", says=("binaris",))
    case(
        "dequantise,logit-on-circle", circle, "--preprocess=dequantise,logit", model="pae", says=("logit", "dequantise")
    )
    case("bernoulli-on-circle", circle, "--likelihood=bernoulli", model="vae", says=("bernoulli", "likelihood"))
    vectors(
        "standardise-on-constants", lambda: np.ones((48, 4)), "--preprocess=standardise", expect="either", seconds=60
    )
    vectors(
        "vectors-of-1e-40", lambda: np.random.default_rng(0).normal(size=(48, 4)) * 1e-40, expect="either", seconds=60
    )
    vectors("vectors-of-100000-values", lambda: np.zeros((12, 100_000), np.float32), expect="either", seconds=60)
    case("crop-on-circle", circle, "--crop=1,1", says="crop")
    case("image_size-on-circle", circle, "--image_size=8", says="image_size")
    case("grey-on-circle", circle, "--grey")
    case("augment-on-circle", circle, "--augment=flip", says="augment")
    for network in ("conv", "infogan", "resnet_conv", "lae_mnist", "lae_celeb_a", "vae10"):
        case(
            f"encoder-{network}-on-circle",
            circle,
            f"--encoder={network}",
            f"--decoder={network}",
            expect="either",
            seconds=60,
        )
        case(
            f"encoder-{network}-on-digits", f"--encoder={network}", f"--decoder={network}", expect="either", seconds=60
        )
    case("encoder-only-conv", "--encoder=conv", "--num_levels=3", expect="either", seconds=60)
    for crop in (
        "a,b",
        "0,0",
        "-1,-1",
        "1,2,3",
        "9,9",
        "99999999999999999999,1",
        "1,1,1,1,1",
        "nan,1",
        "4,4,8,8",
        ",",
        "1",
    ):
        case(f"crop-{crop[:12]}", f"--crop={crop}", says="crop")
    for classes in ("-1", "11", "0,0", "99999999999999999999", "0"):
        case(f"classes-{classes[:12]}", f"--classes={classes}", expect="either", seconds=60)
    for steps in (
        "logit,logit",
        "centre,logit",
        "dequantise,dequantise",
        "binarise_static,binarise_dynamic",
        "scale,bogus",
        "standardise,dequantise",
        "dequantize",
        ",",
        "logit," * 200,
    ):
        case(f"preprocess-{steps[:28]}", f"--preprocess={steps}", expect="either", seconds=60, model="vae")
    case("augment-flip-200-times", f"--augment={','.join(['flip'] * 200)}", expect="either", seconds=60)
    case("validation-of-1e-300", "--validation_fraction=1e-300", expect="either", seconds=60)
    case(
        "bernoulli-with-logit",
        "--preprocess=logit",
        "--likelihood=bernoulli",
        model="vae",
        says=("bernoulli", "likelihood"),
    )
    case(
        "bernoulli-with-centre",
        "--preprocess=centre",
        "--likelihood=bernoulli",
        model="vae",
        says=("bernoulli", "likelihood"),
    )
    case("activation-unknown", "--activation=relo", says="activation")
    case("activation-a-path", "--activation=os.system", says="activation")
    case("activation-empty", "--activation=", expect="either", seconds=60)
    case("mixed_float16", "--precision=mixed_float16", expect="either", seconds=60, model="vae")
    case("gp_circle-on-digits", "--model=gp_circle", expect="either", seconds=60)
    case("lae_posthoc-without-init", model="lae_posthoc", expect="either", seconds=60)
