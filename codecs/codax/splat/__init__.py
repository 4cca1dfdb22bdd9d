"""Family 3: pictures as 2D Gaussians (GaussianImage, Zhang et al. 2024)."""
