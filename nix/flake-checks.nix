# What `nix flake check` tries: the package, the module on a whole system, its option docs, and two
# machines at work.
{
  self,
  nixpkgs,
  pkgs,
}:
let
  inherit (nixpkgs) lib;
  inherit (pkgs.stdenv.hostPlatform) system;
  package = self.packages.${system}.default;
  evaluated = nixpkgs.lib.nixosSystem {
    modules = [
      self.nixosModules.default
      ../tests/nixos/farm.nix
      {
        nixpkgs.hostPlatform = system;
        boot.isContainer = true;
        system.stateVersion = lib.trivial.release;
      }
    ];
  };
  docs = pkgs.nixosOptionsDoc {
    options.services.reconciler = evaluated.options.services.reconciler;
    warningsAreErrors = true;
  };
in
{
  inherit package;
  module = evaluated.config.system.build.toplevel;
  options = docs.optionsJSON;
  lint =
    pkgs.runCommand "lint"
      {
        nativeBuildInputs = [
          pkgs.nixfmt
          pkgs.ruff
        ];
      }
      ''
        cd ${self}
        nixfmt --check default.nix flake.nix module.nix nix/*.nix tests/nixos/*.nix
        ruff check --no-cache .
        ruff format --no-cache --check .
        touch $out
      '';
  machines = pkgs.testers.runNixOSTest (
    import ../tests/nixos/machines.nix { module = self.nixosModules.default; }
  );
}
