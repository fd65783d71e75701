# The units of nix/service.nix and nix/secrets.nix as text, without nixpkgs: what the module system, the packages and
# NixOS's rendering of units would add is stood in for here, as much as the units need of it.
{
  lib,
  options,
  settings,
  rendered,
  systemd,
}:
let
  library = lib // {
    mkIf = condition: value: if condition then value else null;
    mkDefault = value: value;
    replaceStrings = builtins.replaceStrings;
    getExe' = package: name: "${package}/bin/${name}";
    getVersion = package: package.version;
    versionAtLeast = version: least: builtins.compareVersions version least >= 0;
    escapeShellArgs = arguments: builtins.concatStringsSep " " (map (each: "'${each}'") arguments);
    unique = values: builtins.attrNames (lib.genAttrs values (_: null));
  };

  # Programs of the machine itself, and the one under test.
  system = {
    outPath = "/usr";
    version = systemd;
  };
  arguments = {
    lib = library;
    config = {
      services.reconciler = builtins.mapAttrs (_: option: option.default or null) options // {
        inherit settings rendered;
        enable = true;
        package = "/opt/reconciler";
      };
      systemd.package = system;
      nix.package = "/opt/nix";
      networking.proxy.envVars = { };
    };
    pkgs = {
      nix-eval-jobs = "/nowhere";
      git = system;
      openssh = system;
      coreutils = system;
      diffutils = system;
      stdenv.hostPlatform = null;
      stdenv.buildPlatform.canExecute = _: false;
      writeText = builtins.toFile;
      writeShellScript = name: text: "/bin/sh ${builtins.toFile name text}";
    };
    utils.escapeSystemdExecArgs =
      arguments:
      builtins.concatStringsSep " " (
        map (each: builtins.toJSON (builtins.replaceStrings [ "%" ] [ "%%" ] each)) arguments
      );
  };
  module = import ../../nix/service.nix arguments;
  secrets = (import ../../nix/secrets.nix arguments).config.systemd;
  unit = module.config.systemd.services.reconciler;

  line =
    key: value:
    if value == null then
      [ ]
    else if builtins.isList value then
      builtins.concatMap (line key) value
    else if builtins.isBool value then
      [ "${key}=${if value then "true" else "false"}" ]
    else
      [ "${key}=${toString value}" ];
  section =
    name: keys:
    builtins.concatStringsSep "\n" (
      [ "[${name}]" ] ++ builtins.concatLists (lib.mapAttrsToList line keys) ++ [ "" ]
    );
in
{
  document = "${module.config.environment.etc."nix-reconciler/config.json".source}";
  units = {
    "reconciler.service" =
      section "Unit" {
        Description = unit.description;
        Wants = unit.wants;
        Requires = unit.requires;
        After = unit.after;
        X-Reload-Triggers = map toString unit.reloadTriggers;
        StartLimitIntervalSec = unit.startLimitIntervalSec;
      }
      + section "Service" (
        unit.serviceConfig
        // secrets.services.reconciler.serviceConfig
        // {
          Environment = lib.mapAttrsToList (name: value: builtins.toJSON "${name}=${value}") (
            unit.environment // { PATH = builtins.concatStringsSep ":" (map (each: "${each}/bin") unit.path); }
          );
        }
      );
    "reconciler-secrets.path" = section "Path" secrets.paths.reconciler-secrets.pathConfig;
    "reconciler-secrets.service" =
      section "Unit" {
        StartLimitIntervalSec = secrets.services.reconciler-secrets.startLimitIntervalSec;
      }
      + section "Service" secrets.services.reconciler-secrets.serviceConfig;
  };
}
