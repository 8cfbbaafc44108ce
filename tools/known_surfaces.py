"""Geodesics where the truth is known: a sphere, and a decoder ensemble trained on a circle. Prints tables, draws both.

python tools/known_surfaces.py --out=FOLDER
"""

import sys
import time
from pathlib import Path

import numpy as np
from command import Parser, path, positive, told, use_package

PAIRS_APART = 2.4  # radians between the ends on the ring


@told
def main(argv: list[str]) -> int:
    use_package()
    parser = Parser(prog="known_surfaces", description=__doc__)
    parser.add_argument("--out", default="known_surfaces", type=path,
                        help="folder of the pictures (default: known_surfaces)")
    parser.add_argument("--pairs", type=positive, default=32, help="pairs on the sphere (default: 32)")
    parser.add_argument("--steps", type=positive, default=3000, help="training steps on the ring (default: 3000)")
    args = parser.parse_args(argv)
    from pae_zoo.core import files

    out = Path(args.out)
    files.check_place(out, "out")
    out.mkdir(parents=True, exist_ok=True)
    sphere(out, args.pairs)
    ring(out, args.steps)
    return 0


def sphere(out: Path, pairs: int) -> None:
    """Compares geodesics of the unit sphere, in the stereographic chart, with great circles."""
    import surfaces

    from pae_zoo.plotting import figures

    start, end = surfaces.disk(pairs), surfaces.disk(pairs, seed=1)
    truth = surfaces.great_circles(start, end)
    print(f"sphere: {pairs} pairs, 128 points; greatest relative error of the length")
    for name, options in {"Gauss-Newton": {}, "Adam": dict(method="adam")}.items():
        solver = surfaces.solver(surfaces.sphere, 2, num_points=128, **options)
        began = time.perf_counter()
        found = solver.solve(start, end)
        seconds = time.perf_counter() - began
        error = np.abs(found.lengths["rms"] / truth - 1).max()
        balance = np.abs(found.energy / found.lengths["rms"] ** 2 - 1).max()
        print(f"  {name:14} {error:.1e}, E / L^2 - 1 {balance:.1e}, {found.steps.mean():.0f} steps, converged "
              f"{found.converged.mean():.2f}, {seconds:.1f} s with tracing")
    lines = surfaces.solver(surfaces.sphere, 2, num_points=128).straight(start, end)
    print(f"  straight line  {np.abs(lines.lengths['rms'] / truth - 1).max():.1e}")
    far = np.argsort(-np.abs(lines.lengths["rms"] / truth - 1))[:6]
    figure = figures.new_figure(6.2, 6.2)
    axes = figure.add_subplot(projection="3d")
    u, v = np.mgrid[0 : 2 * np.pi : 60j, 0 : np.pi : 30j]
    axes.plot_wireframe(np.cos(u) * np.sin(v), np.sin(u) * np.sin(v), np.cos(v), color="0.85", linewidth=0.4)
    t = np.linspace(0, 1, 200)
    for row, colour in zip(far, figures.COLOURS):
        for curves, style in ((found.curves, "-"), (lines.curves, ":")):
            points = surfaces.sphere(curves[[row]](t)[0]).numpy()
            axes.plot(*points.T, color=colour, linestyle=style, linewidth=2.2 if style == "-" else 1.4)
    axes.plot([], [], [], color="0.3", linewidth=2.2, label="geodesic")
    axes.plot([], [], [], color="0.3", linewidth=1.4, linestyle=":", label="straight line of the chart")
    axes.set_box_aspect((1, 1, 1), zoom=1.45)
    axes.set_axis_off()
    axes.view_init(elev=-35, azim=30)
    axes.legend(loc="upper right", frameon=False)
    axes.set_title("unit sphere, stereographic chart", fontsize=11)
    _save(figure, out / "sphere.png")


def ring(out: Path, steps: int) -> None:
    """Trains an ensemble on a circle in ten dimensions and joins points by geodesics of each energy."""
    import surfaces

    from pae_zoo import geometry
    from pae_zoo.plotting import geometry as plotting_geometry
    from pae_zoo.plotting.uncertainty import Plane

    began = time.perf_counter()
    decoder, codes, angles = surfaces.ring(steps)
    arc = PAIRS_APART * surfaces.RADIUS
    print(f"ring: {surfaces.MEMBERS} decoders, trained in {time.perf_counter() - began:.0f} s; 12 pairs "
          f"{PAIRS_APART} rad apart, true arc {arc:.2f}")
    first = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    start, end = (codes[np.abs((angles - turn[:, None] + np.pi) % (2 * np.pi) - np.pi).argmin(axis=1)]
                  for turn in (first, first + PAIRS_APART))  # fmt: skip
    centre = codes.mean(axis=0)
    radius = np.linalg.norm(codes - centre, axis=1).mean()
    cases = {"coupled": dict(energy="coupled", num_points=65)}
    cases |= {f"decorrelated, R = 256, {num} points": dict(num_points=num) for num in (33, 65, 129)}
    cases |= {f"decorrelated, as published, {num} points": dict(num_points=num, reference_points=None)
              for num in (17, 65, 257)}  # fmt: skip
    print("  energy                                     least radius / the ring's   rms length / arc")
    times = np.linspace(0, 1, 200)
    lines = surfaces.solver(decoder, 2).straight(start, end)
    results = {"straight line": lines}
    results |= {name: surfaces.solver(decoder, 2, **options).solve(start, end) for name, options in cases.items()}
    for name, found in results.items():
        least = (np.linalg.norm(found.curves(times) - centre, axis=-1) / radius).min(axis=1)
        print(f"  {name:42} {least.mean():25.2f} {found.lengths['rms'].mean() / arc:18.3f}")
    found = results["decorrelated, R = 256, 65 points"]
    span = np.linspace(-1.7 * radius, 1.7 * radius, 120)
    plane = np.stack(np.meshgrid(span + centre[0], span + centre[1]), axis=-1)
    manifold = geometry.as_manifold(decoder, 2)
    values = geometry.Fields(manifold, jit_compile=False).uncertainty(plane.reshape(-1, 2)).reshape(plane.shape[:2])
    extent = (*(span[[0, -1]] + centre[0]), *(span[[0, -1]] + centre[1]))
    paths, straight = found.curves(times), lines.curves(times)
    curves = [plotting_geometry.Curve(paths[i], straight[i], bool(found.converged[i])) for i in range(0, 12, 3)]
    figure = plotting_geometry.latent_geodesics(
        codes, None, curves, plotting_geometry.Background(Plane(extent, values), "uncertainty"),
        "decoder ensemble on a circle in ten dimensions", ("z[0]", "z[1]"))  # fmt: skip
    _save(figure, out / "ring.png")


def _save(figure, path: Path) -> None:
    figure.savefig(path)
    print(f"  picture: {path}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
