"""A table of 569 tumours: which rows are unlike the benign ones, how sure is that, and what makes one so?

Prints:

AUROC: 0.95
reported: 105 of 319 rows, of which malignant: 105
the most unusual row, by: area error, symmetry error
"""

import numpy as np
from sklearn.datasets import load_breast_cancer

from pae_zoo import anomaly
from pae_zoo.sklearn import AnomalyDetector

table = load_breast_cancer()
benign, malignant = table.data[table.target == 1], table.data[table.target == 0]
usual, new = benign[:250], np.concatenate([benign[250:], malignant])
is_malignant = np.arange(len(new)) >= len(benign) - 250

detector = AnomalyDetector(random_state=0).fit(usual)
scores, p = -detector.score_samples(new), detector.pvalues(new)
auroc = np.mean(scores[is_malignant][:, None] > scores[~is_malignant])
reported = anomaly.discoveries(p, fdr=0.05)
print("AUROC:", auroc.round(2))
print("reported:", reported.sum(), "of", len(new), "rows, of which malignant:", (reported & is_malignant).sum())
most = np.argmax(scores)
adds = detector.explain(new[[most]])[0]
print("the most unusual row, by:", ", ".join(table.feature_names[np.argsort(-adds)[:2]]))
