"""Score-based diffusion: the EDM parametrisation and its samplers."""
