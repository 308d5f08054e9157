"""What stands beside the pipeline: networks compared, results and published numbers, score checks, similarity, saliency.

Import a module by its name: `from metlib.analysis import results`. `compare` and `saliency` need torch, the others don't.
"""
