"""Family 3: images as 2D Gaussians (GaussianImage, Zhang et al. 2024)."""
