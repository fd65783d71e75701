"""Tests of lib/: the Nix functions of incremental builds, with real compilers."""
