"""Benchmarks: the reconciler beside Nix itself, as ratios measured in one run."""
