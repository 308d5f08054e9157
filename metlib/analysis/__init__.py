"""What stands beside the pipeline: networks compared, results, published numbers, score checks, similarity, saliency.

Import a module by its name: `from metlib.analysis import results`. `compare`, `saliency` and `sweep` need torch.
"""
