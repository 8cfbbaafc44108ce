"""`benchmark.py scale`: what the forecast says is a sum, bad flags are refused, and all of it runs."""

import benchmark
import pytest
from benchmarks import scale


def test_the_forecast_is_a_ring():
    # Without anything to send, so many workers have so many times the samples.
    assert scale.gain(0.1, 0.0, 1e9, 8) == pytest.approx((8.0, 8.0))
    # Two workers send the whole gradient once: 1e6 bytes in a tenth of a second, as long as the step itself.
    fixed, grown = scale.gain(0.1, 1e6, 1e7, 2)
    assert fixed == pytest.approx(0.1 / (0.05 + 0.1)) and grown == pytest.approx(1.0)
    assert scale.gain(0.1, 1e6, 1e7, 1000)[0] < 1.0


def test_too_little_to_measure_is_refused():
    with pytest.raises(SystemExit, match="--epochs takes 2 or more"):
        benchmark.main(["scale", "--epochs=1"])


@pytest.mark.full
def test_all_cases_run(tmp_path, capsys):
    path = tmp_path / "found.json"
    assert benchmark.main(["scale", "--rows=2000", "--hidden_units=8", "--batch_size=100", "--epochs=2",
                           f"--json={path}"]) == 0
    out = capsys.readouterr().out
    assert "two processes, a batch shared" in out and "100 Gbit/s" in out and path.exists()
