"""Which data are unusual: scores that are calibrated, p-values, and a detector that needs no choices."""

from pae_zoo.anomaly.calibration import Tail, discoveries, pvalues, smooth_maximum, tail
from pae_zoo.anomaly.combined import Combined, Scores
from pae_zoo.anomaly.detector import PARTS, Detector

__all__ = ["PARTS", "Combined", "Detector", "Scores", "Tail", "discoveries", "pvalues", "smooth_maximum", "tail"]
