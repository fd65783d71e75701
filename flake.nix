{
  description = "A declarative Nix build farm: desired state in, signed paths in a cache out";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      forEach =
        f: lib.genAttrs [ "x86_64-linux" "aarch64-linux" ] (system: f nixpkgs.legacyPackages.${system});
    in
    {
      nixosModules.default = ./module.nix;

      # Needs no nixpkgs: docs/incremental.md.
      lib = import ./lib;

      overlays.default = final: _: { nix-reconciler = final.callPackage ./nix/package.nix { }; };

      packages = forEach (pkgs: rec {
        default = nix-reconciler;
        nix-reconciler = pkgs.callPackage ./nix/package.nix { };
      });

      apps = forEach (pkgs: {
        default = {
          type = "app";
          program = lib.getExe self.packages.${pkgs.stdenv.hostPlatform.system}.default;
          meta.description = "The command line of nix-reconciler";
        };
      });

      checks = forEach (pkgs: import ./nix/flake-checks.nix { inherit self nixpkgs pkgs; });

      devShells = forEach (pkgs: {
        default = pkgs.mkShell {
          inputsFrom = [ self.packages.${pkgs.stdenv.hostPlatform.system}.default ];
          packages = [
            pkgs.nix-eval-jobs
            pkgs.ruff
            pkgs.python3Packages.mypy
            pkgs.python3Packages.pytest-cov
            pkgs.python3Packages.pytest-xdist
          ];
        };
      });

      formatter = forEach (pkgs: pkgs.nixfmt-tree);
    };
}
