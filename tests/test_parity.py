"""Figures of the original PyTorch implementation, reproduced with its own weights.

`golden/model_parity.npz` holds a small TimeLDM of the released architecture (D 5, T 24, m 8,
2 heads, factor 4, 2 layers; denoiser width 32), inputs and every intermediate figure.
"""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from timeldm_jax.diffusion import edm, samplers
from timeldm_jax.models.denoiser import Denoiser, noise_sinusoids
from timeldm_jax.models.vae import VAE, draw
from timeldm_jax.training import losses

GOLDEN = pathlib.Path(__file__).parent / "golden" / "model_parity.npz"
HEADS = 2
SIGMA_DATA = 0.5


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def dense(golden, name):
    return {"kernel": golden[f"{name}.weight"].T, "bias": golden[f"{name}.bias"]}


def norm(golden, name):
    return {"scale": golden[f"{name}.weight"], "bias": golden[f"{name}.bias"]}


def conv(golden, name):
    weight = golden[f"{name}.weight"]  # (out, in, kernel)
    kernel = weight.transpose(2, 1, 0).reshape(-1, weight.shape[0])
    return {"taps": {"kernel": kernel, "bias": golden[f"{name}.bias"]}}


def attention(golden, name):
    params = {}
    for ours, theirs in (("query", "W_q"), ("key", "W_k"), ("value", "W_v")):
        weight, bias = golden[f"{name}.{theirs}.weight"], golden[f"{name}.{theirs}.bias"]
        params[f"{ours}_kernel"] = weight.T.reshape(weight.shape[1], HEADS, -1).transpose(1, 0, 2)
        params[f"{ours}_bias"] = bias.reshape(HEADS, -1)
    weight = golden[f"{name}.W_out.weight"]
    params["out_kernel"] = weight.T.reshape(HEADS, -1, weight.shape[0])
    params["out_bias"] = golden[f"{name}.W_out.bias"]
    return params


def stack(golden, name, layers, cross):
    params = {}
    for i in range(layers):
        layer = f"{name}.layers.{i}"
        block = {
            "self_attention": attention(golden, f"{layer}.attention{'1' if cross else ''}"),
            "ff_norm": norm(golden, f"{layer}.norm1"),
            "ff_in": dense(golden, f"{layer}.linear0"),
            "ff_out": dense(golden, f"{layer}.linear1"),
        }
        if cross:
            block["cross_attention"] = attention(golden, f"{layer}.attention2")
        if i > 0:
            block["attention_norm"] = norm(golden, f"{layer}.norm0")
        params[f"block_{i}"] = block
    return params


def vae_params(golden):
    return {
        "embed": conv(golden, "vae/emb.sequential.1"),
        "encoder_positions_table": golden["vae/VAE.pos_mu.pe"].reshape(24, 8),
        "mean_stack": stack(golden, "vae/VAE.encoder_mu", 2, cross=False),
        "log_variance_stack": stack(golden, "vae/VAE.encoder_logvar", 2, cross=False),
        "embed_latent": conv(golden, "vae/VAE.dec.sequential.1"),
        "decoder_positions_table": golden["vae/VAE.pos_dec.pe"].reshape(24, 8),
        "decoder_stack": stack(golden, "vae/VAE.decoder", 2, cross=True),
        "last_maps_2": dense(golden, "vae/rec"),
    }


def denoiser_params(golden):
    return {
        "project": dense(golden, "denoiser/proj"),
        "embed_in": dense(golden, "denoiser/time_embed.0"),
        "embed_out": dense(golden, "denoiser/time_embed.2"),
        "mlp_0": dense(golden, "denoiser/mlp.0"),
        "mlp_1": dense(golden, "denoiser/mlp.2"),
        "mlp_2": dense(golden, "denoiser/mlp.4"),
        "out": dense(golden, "denoiser/mlp.6"),
    }


def close(actual, expected, rtol=1e-5):
    """Relative to the array's largest entry: entries near zero carry its rounding, not theirs."""
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(actual) / scale, expected / scale, rtol=0, atol=rtol)


def released_vae():
    return VAE(
        features=5,
        window=24,
        latent=8,
        width=8,
        heads=HEADS,
        mlp_ratio=4,
        encoder_layers=2,
        decoder_layers=2,
        norm="pre",
        head=None,
        skip=False,
    )


def network(golden):
    model = Denoiser(hidden=32, blocks=0)
    variables = {"params": denoiser_params(golden)}
    return lambda z, label: model.apply(variables, z, label)


def test_vae_posterior_and_reconstruction(golden):
    variables = {"params": vae_params(golden)}
    output = released_vae().apply(variables, golden["x"], golden["eps"])
    close(output.mean, golden["mu"])
    close(output.log_variance, golden["logvar"])
    close(draw(output.mean, output.log_variance, golden["eps"]), golden["z"])
    close(output.reconstruction, golden["reconstruction"])


def test_loss_terms(golden):
    terms = losses.reconstruction_terms(golden["x"], golden["reconstruction"])
    close(terms.l1, golden["loss_l1"])
    close(terms.l2, golden["loss_l2"])
    close(terms.feature_mean, golden["loss_feature_mean"])
    close(terms.fft, golden["loss_fft"])
    close(losses.fft_weight(24), golden["fft_weight"])
    close(losses.kl_divergence(golden["mu"], golden["logvar"]), golden["loss_kl"])
    total = sum(golden[f"loss_{name}"] for name in ("l1", "l2", "feature_mean"))
    close(losses.reconstruction_loss(terms, 24), total + golden["fft_weight"] * golden["loss_fft"])


def test_denoiser_and_preconditioning(golden):
    label = golden["den_noise_label"]
    model = Denoiser(hidden=32, blocks=0)
    variables = {"params": denoiser_params(golden)}
    # The stored figure is (cos, sin), before the network swaps the halves.
    cosine, sine = np.split(golden["den_embedding"], 2, axis=-1)
    close(noise_sinusoids(jnp.asarray(label), 32), np.concatenate([sine, cosine], axis=-1))
    flat = golden["den_in"].reshape(len(label), -1)
    close(model.apply(variables, flat, label), golden["den_out"].reshape(flat.shape))
    pre = golden["pre_in"].reshape(len(golden["sigma"]), -1)
    sigma = golden["sigma"].reshape(-1)
    close(
        edm.denoise(network(golden), pre, sigma, SIGMA_DATA), golden["pre_out"].reshape(pre.shape)
    )


def test_edm_weight_and_loss(golden):
    sigma = golden["sigma"].reshape(-1)
    close(edm.loss_weight(sigma, SIGMA_DATA), golden["edm_weight"].reshape(-1))
    clean = golden["edm_clean"].reshape(len(sigma), -1)
    noise = golden["edm_noise"].reshape(len(sigma), -1)
    loss = edm.denoising_loss(network(golden), clean, noise, sigma, SIGMA_DATA)
    close(loss, golden["edm_loss_per_example"].reshape(-1))


def test_heun_18_steps(golden):
    sigmas = samplers.karras_sigmas(18, 0.002, 80.0, 7.0)
    close(sigmas, golden["heun18_sigmas"])
    start = golden["heun18_start"].reshape(golden["heun18_start"].shape[0], -1)
    out = samplers.heun(
        lambda z, sigma: edm.denoise(network(golden), z, sigma, SIGMA_DATA),
        jnp.asarray(start),
        sigmas,
    )
    close(out, golden["heun18_out"].reshape(start.shape), rtol=1e-4)
