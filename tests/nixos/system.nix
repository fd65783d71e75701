# A whole NixOS system with the module in it. `nixpkgs`: a tree with lib/ and nixos/; where it has
# packages as well, the real ones are used.
{ nixpkgs, configuration }:
let
  tree = /. + nixpkgs;
  lib = import (tree + "/lib");
  pkgs =
    if builtins.pathExists (tree + "/pkgs/top-level") then
      import tree { system = "x86_64-linux"; }
    else
      import ./stand_in_packages.nix { inherit lib; };
  system = import (tree + "/nixos/lib/eval-config.nix") {
    inherit lib pkgs;
    system = null;
    modules = [
      ../../module.nix
      configuration
      {
        boot.isContainer = true;
        system.stateVersion = "25.05";
        networking.hostName = "farm";
        documentation.enable = false;
        programs.command-not-found.enable = false;
      }
    ];
  };
  inherit (system) config;
in
{
  inherit (config) warnings;
  # Whatever else a whole system checks is none of ours.
  failed = map (each: each.message) (builtins.filter (each: !each.assertion) config.assertions);
  unit = config.systemd.units."reconciler.service".text;
  document = config.services.reconciler.rendered.document;
  toplevel = config.system.build.toplevel.drvPath;
  users = config.users.users.reconciler.group;
}
