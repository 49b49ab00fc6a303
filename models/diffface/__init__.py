"""DiffFace: face swapping by a diffusion model conditioned on identity and guided by face experts.

Written from the published description (arXiv 2212.13344). It knows neither the pipeline nor its store.
"""
