"""Training on a museum: one method a file, readable alone from its loss to its head, and the loop they share."""
