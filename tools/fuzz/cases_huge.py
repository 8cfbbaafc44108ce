"""Cases: flags: huge values in earnest."""

import kit
from kit import add, apply, evaluate, export, pictures, run_of, tiny


def table():
    huge()


HUGE = (2**31, 2**63 - 1, 2**63, 10**30)


def huge():
    def case(name, *argv, **how):
        model = how.pop("model", "ae")
        how.setdefault("says", argv[-1].partition("=")[0].lstrip("-"))
        how.setdefault("seconds", 60)
        add("huge", name, lambda d: tiny(d, *argv, model=model), **how)

    def several(flag, values, *more, **how):
        for value in values:
            case(f"{how.get('model', 'ae')}-{flag}-{label(value)}", *more, f"--{flag}={value}", **dict(how))

    several("latent_dim", (10**7, *HUGE))
    several("latent_dim", (10**5,), model="pae")
    several("latent_dim", (10**5,), model="vlae")
    several("latent_dim", (10**6,), model="iaf")
    several("hidden_units", (10**8, *HUGE))
    case("hidden_units-3000-layers", f"--hidden_units={','.join(['8'] * 3000)}")
    several("image_size", (20_000, 10**6, *HUGE))
    several("epochs", HUGE[1:])
    several("max_steps", HUGE[1:])
    several("batch_size", HUGE, expect="either", says=())
    several("num_train", HUGE[1:], expect="either", says=())
    several("steps_per_call", (100_000,), expect="either", says=())
    several("resident_memory", HUGE, expect="either", says=())
    several("patience", HUGE, expect="either", says=())
    several("checkpoint_seconds", (10**300,), expect="either", says=())
    conv = ("--encoder=conv", "--decoder=conv")
    several("num_filters", (10**6, 2**63), *conv)
    fc = ("--encoder=resnet_fc", "--decoder=resnet_fc")
    several("dense_size", (10**6, 2**63), *fc)
    several("num_layers", (3000, 10**9), *fc)
    rc = ("--encoder=resnet_conv", "--decoder=resnet_conv")
    several("base_dim", (10**6, 2**63), *rc)
    several("kernel_size", (10**6, 2**63), *rc)
    several("num_scale", (10**9,), *rc)
    several("block_per_scale", (10**9,), *rc)
    several("depth_per_block", (10**9,), *rc)
    several("fc_dim", (10**9, 2**63), *rc)
    # numbers that make the arithmetic break: a sentence, not a traceback
    for flag, value, model in (
        ("learning_rate", "1e308", "ae"),
        ("learning_rate", "1e38", "ae"),
        ("learning_rate", "1e-320", "ae"),
        ("adam_epsilon", "1e308", "ae"),
        ("weight_decay", "1e308", "ae"),
        ("clip_norm", "1e308", "ae"),
        ("scale", "1e-300", "vae"),
        ("scale", "1e300", "vae"),
        ("scale", "1e-30", "vae"),
        ("beta", "1e308", "vae"),
        ("capacity", "1e308", "vae"),
        ("free_bits", "1e308", "vae"),
        ("logit_margin", "1e-320", "vae"),
        ("rotate_degrees", "1e-320", "ae"),
        ("code_noise", "1e308", "ae"),
        ("flow_noise", "1e308", "pae"),
        ("flow_learning_rate", "1e308", "pae"),
        ("flow_clip_norm", "1e-320", "pae"),
        ("update_lr", "1e-320", "vlae"),
        ("fisher_floor", "1e308", "vlae"),
        ("prior_std", "1e-320", "bbb_ae"),
        ("kl_weight", "1e308", "bbb_ae"),
        ("length_scale", "1e-320", "gp_circle"),
        ("noise_std", "1e308", "gp_circle"),
        ("rbf_floor", "1e308", "rbf_vae"),
        ("curvature_constant", "1e308", "lae"),
    ):
        more = (
            ("--likelihood=gaussian",) if flag == "scale" else ("--preprocess=logit",) if flag == "logit_margin" else ()
        )
        more += ("--dataset=circle",) if model == "gp_circle" else ()
        case(f"{model}-{flag}-{value}", *more, f"--{flag}={value}", model=model, expect="clean", says=())
    for model, flag, values in (
        ("vae", "num_latent_samples", (10**9, 2**63)),
        ("vae", "scale_annealing_steps", HUGE),
        ("vae", "capacity_steps", HUGE),
        ("vae", "prior_components", (10**6,)),
        ("pae", "flow_epochs", HUGE[1:]),
        ("pae", "flow_batch_size", HUGE),
        ("pae", "flow_layers", (10**6,)),
        ("pae", "flow_blocks", (10**6,)),
        ("pae", "flow_hidden", (10**9,)),
        ("flow_vae", "flow_blocks", (10**6,)),
        ("vlae", "num_updates", (10**5, 2**63)),
        ("vlae", "rank", (10**9,)),
        ("vlae", "cg_iterations", (10**9,)),
        ("lae", "train_samples", (10**9, 2**63)),
        ("lae", "hessian_every", HUGE),
        ("lae", "hessian_subset", HUGE),
        ("deep_ensemble_ae", "num_members", (10**7,)),
        ("ensemble_vae", "num_members", (10**7,)),
        ("hf", "num_flows", (10**6,)),
        ("iaf", "num_flows", (10**6,)),
        ("iaf", "iaf_units", (10**9,)),
        ("savae", "num_svi_steps", (10**6,)),
        ("rbf_vae", "rbf_centres", (10**9,)),
        ("rbf_vae", "rbf_epochs", (2**63,)),
        ("bbb_ae", "train_samples", (10**9,)),
        ("lae_posthoc", "curvature_rank", (10**9,)),
        ("lae_posthoc", "curvature_data", HUGE),
        ("mcdropout_ae", "test_samples", (2**63,)),
    ):
        loose = flag in (
            "scale_annealing_steps",
            "capacity_steps",
            "flow_batch_size",
            "hessian_every",
            "hessian_subset",
            "rbf_centres",
            "curvature_data",
            "curvature_rank",
            "rank",
        )
        if not known(model, flag):
            continue
        more = {
            "vlae": ("--covariance=low_rank",)
            if flag == "rank"
            else ("--search=cg",)
            if flag == "cg_iterations"
            else (),
            "lae_posthoc": ("--curvature_structure=low_rank",) if flag == "curvature_rank" else (),
        }.get(model, ())
        several(flag, values, *more, model=model, **(dict(expect="either", says=()) if loose else {}))
    for flag, value, task in (
        ("geodesic_points", 10**9, "geodesics"),
        ("geodesic_pairs", 10**9, "geodesics"),
        ("geodesic_reference", 2**63, "geodesics"),
        ("geodesic_members", 10**9, "geodesics"),
        ("frechet_samples", 2**63, "generation"),
        ("labels_per_class", 2**63, "downstream"),
        ("embeddings", 10**9, "downstream"),
        ("downstream_repeats", 10**9, "downstream"),
        ("cluster_points", 10**9, "clustering"),
        ("imputation_samples", 10**9, "imputation"),
        ("test_samples", 10**12, "calibration"),
        ("restoration_starts", 10**9, "restoration"),
        ("restoration_draws", 10**12, "restoration"),
        ("stability_pairs", 2**63, "distance_stability"),
        ("amortisation_images", 2**63, "amortisation"),
        ("ood_bootstrap", 10**12, "ood"),
        ("noise", "1e300", "restoration"),
        ("importance_samples", 2**63, "likelihood"),
    ):
        loose = flag in (
            "frechet_samples",
            "geodesic_pairs",
            "cluster_points",
            "stability_pairs",
            "amortisation_images",
            "geodesic_members",
            "geodesic_reference",
            "labels_per_class",
            "noise",
        )
        add(
            "huge",
            f"task-{task}-{flag}-{value}",
            lambda d, flag=flag, value=value, task=task: (
                run_of("vae", d),
                evaluate(d, f"--workdir={d}/run", f"--tasks={task}", f"--{flag}={value}"),
            )[1],
            seconds=60,
            expect="clean" if loose else "told",
            says=() if loose else flag,
        )
    for flag, value in (
        ("importance_samples", 2**63),
        ("importance_samples", 10**30),
        ("version", 2**63),
        ("version", 10**300),
    ):
        add(
            "huge",
            f"export-{flag}-{label(value)}",
            lambda d, flag=flag, value=value: (
                run_of("vae", d),
                export(d, f"--workdir={d}/run", f"--export_dir={d}/e", f"--{flag}={value}"),
            )[1],
            seconds=60,
            expect="clean",
        )
    for flag, value in (("limit", 10**30), ("batch_size", 10**30), ("image_size", 10**6), ("image_size", 2**63)):
        add(
            "huge",
            f"apply-{flag}-{label(value)}",
            lambda d, flag=flag, value=value: (
                run_of("vae", d),
                apply(
                    d, f"--workdir={d}/run", f"--input=folder:{pictures(d)}", f"--out={d}/o.npz", f"--{flag}={value}"
                ),
            )[1],
            seconds=60,
            expect="clean",
        )


def label(value):
    return {2**31: "2^31", 2**63 - 1: "2^63-1", 2**63: "2^63"}.get(value) or f"{value:.0e}".replace("+", "")


def known(model, flag):
    return not kit.FLAGS or flag in kit.FLAGS.get(model, ())
