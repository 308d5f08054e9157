"""What every part of the package may use: files, fetching, rows of vectors, progress, devices, checks."""
