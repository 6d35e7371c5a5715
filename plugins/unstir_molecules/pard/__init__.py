"""PARD: a graph generated block by block, each block by discrete diffusion; Zhao, Ding and Akoglu 2024, arXiv:2402.03687."""
