"""nix-reconciler: a declarative Nix build farm.

README's architecture part says what each module is responsible for; `tests/test_architecture.py`
holds the imports to it.
"""
