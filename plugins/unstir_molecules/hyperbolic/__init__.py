"""HypDiff: graphs as points of a hyperbolic space, and diffusion in its tangent spaces. Names only; import from the modules."""
