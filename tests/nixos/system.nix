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
        documentation.enable = false;
        networking.hostName = "farm";
        programs.command-not-found.enable = false;
        system.stateVersion = "25.05";
      }
    ];
  };
  inherit (system) config;
  text = name: config.systemd.units.${name}.text;
in
rec {
  inherit (config) warnings;
  # What the module asserts: a whole system may have other faults.
  failed = map (each: each.message) (builtins.filter (each: !each.assertion) config.assertions);
  unit = text "reconciler.service";
  path = text "reconciler-secrets.path";
  bring = config.systemd.services.reconciler-secrets.serviceConfig.ExecStart.text;
  document = config.services.reconciler.rendered.document;
  source = config.environment.etc."nix-reconciler/config.json".source;
  check = config.environment.etc."nix-reconciler/config.json".source.script;
  nix = config.nix.settings;
  machines = config.nix.buildMachines;
  client = {
    inherit failed;
    substituters = nix.extra-substituters;
    keys = nix.extra-trusted-public-keys;
    daemon = config.systemd.services ? reconciler;
  };
  shown = {
    inherit failed;
    hook = nix.pre-build-hook or null;
    mounts = map (mount: { inherit (mount) what where options wantedBy before; }) (
      builtins.filter (mount: mount.where == "/run/nix-reconciler-store") config.systemd.mounts
    );
    compilers = config.systemd.tmpfiles.settings.reconciler."/var/cache/nix-reconciler-compilers".d or null;
  };
  served = {
    inherit (config.services.nginx.virtualHosts.c) root;
    ports = config.networking.firewall.allowedTCPPorts;
    groups = config.systemd.services.nginx.serviceConfig.SupplementaryGroups;
  };
  builders = config.services.reconciler.settings.builders;
  docs = builtins.filter (option: option.visible && !option.internal) (
    lib.optionAttrSetToDocList system.options.services.reconciler
  );
  toplevel = config.system.build.toplevel.drvPath;
  all = {
    inherit
      bring
      document
      failed
      nix
      path
      toplevel
      unit
      warnings
      ;
  };
}
