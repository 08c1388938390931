"""VAE Manager: the right VAE for every picture."""

__version__ = "0.1.0"
