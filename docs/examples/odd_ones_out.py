"""Ten odd images hidden among three hundred: which score finds them?

Prints:

AUROC of squared_error: 1.0
AUROC of latent_density: 0.7
"""

import numpy as np

import pae_zoo

digits = pae_zoo.data.load("digits")
encoder = pae_zoo.networks.build_encoder("mlp", (8, 8, 1), latent_dim=8, hidden_units=(64,))
decoder = pae_zoo.networks.build_decoder("mlp", (8, 8, 1), latent_dim=8, hidden_units=(64,))
model = pae_zoo.PAE(encoder, decoder, flow=pae_zoo.Flow(8, depth=2, hidden_units=(32,)))
model.compile("adam")
model.fit(digits.train.x, epochs=30, batch_size=64, verbose=0)

odd = pae_zoo.data.corrupted("noise", digits.test, seed=(0, 1)).x[:10]
x = np.concatenate([digits.test.x, odd])
scores = model.ood_scores(x)
for name in ("squared_error", "latent_density"):
    usual, unusual = np.split(scores[name].numpy(), [len(digits.test.x)])
    print(f"AUROC of {name}:", np.mean(unusual[:, None] > usual).round(1))  # 0.5 is chance, 1 is perfect
