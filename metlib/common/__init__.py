"""What every part of the package may use: files, rows of vectors, progress, devices."""
