"""The decorrelated energy keeps geodesics on the data, whatever the number of points (an ensemble on a circle)."""

import numpy as np
import pytest
import surfaces

ARC = 2.4 * surfaces.RADIUS


@pytest.fixture(scope="module")
def ring():
    """Decoder, ends of twelve pairs 2.4 rad apart, and the radius of curves relative to the ring's."""
    decoder, codes, angles = surfaces.ring()

    def nearest(targets):
        distance = np.abs((angles - targets[:, None] + np.pi) % (2 * np.pi) - np.pi)
        return codes[distance.argmin(axis=1)]

    first = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    centre = codes.mean(axis=0)
    radius = np.linalg.norm(codes - centre, axis=1).mean()

    def least_radius(found):
        points = found.curves(np.linspace(0, 1, 200))
        return (np.linalg.norm(points - centre, axis=-1) / radius).min(axis=1).mean()

    return decoder, nearest(first), nearest(first + 2.4), least_radius


@pytest.fixture(scope="module")
def decorrelated(ring):
    """Geodesics of the default energy between all pairs."""
    decoder, start, end, _ = ring
    return surfaces.solver(decoder, 2, num_points=65).solve(start, end)


def test_coupled_geodesics_cross_the_hole_and_decorrelated_ones_do_not(ring, decorrelated):
    decoder, start, end, least_radius = ring
    coupled = surfaces.solver(decoder, 2, energy="coupled", num_points=65).solve(start, end)
    assert least_radius(coupled) <= 0.5
    assert least_radius(decorrelated) >= 0.8
    assert 0.85 <= decorrelated.lengths["rms"].mean() / ARC <= 1.05


def test_a_fixed_reference_makes_the_energy_free_of_the_resolution(ring, decorrelated):
    decoder, start, end, _ = ring
    found = [decorrelated, *(surfaces.solver(decoder, 2, num_points=num).solve(start, end) for num in (33, 129))]
    lengths = [one.lengths["rms"].mean() for one in found]
    assert max(lengths) <= 1.02 * min(lengths)


def test_the_published_energy_grows_with_the_points(ring):
    decoder, start, end, least_radius = ring
    found = [surfaces.solver(decoder, 2, num_points=num, reference_points=None).solve(start[:4], end[:4])
             for num in (17, 65, 257)]  # fmt: skip
    energies = [one.energy.mean() for one in found]
    assert energies[0] < energies[1] < energies[2] and energies[2] > 1.5 * energies[0]
    assert least_radius(found[0]) < least_radius(found[2])
