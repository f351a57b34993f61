"""Pure Flax modules: the transformer, the VAE built from it, and the latent denoiser."""
