# The options. Those under `settings` are made from the schema of the document.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.reconciler;
  schema = lib.importJSON ../schemas/config.schema.json;
  settingsType = import ./from-schema.nix {
    inherit lib;
    json = (pkgs.formats.json { }).type;
  } schema;
in
{
  options.services.reconciler = {
    enable = lib.mkEnableOption "nix-reconciler, a build farm that is declared";
    package = mkOption {
      type = types.package;
      default = pkgs.nix-reconciler or (pkgs.callPackage ./package.nix { });
      defaultText = lib.literalExpression "pkgs.nix-reconciler";
      description = "The package to run.";
    };
    settings = mkOption {
      type = settingsType;
      default = { };
      inherit (schema) description;
      example = builtins.head schema.examples;
    };
    configFile = mkOption {
      type = types.nullOr types.path;
      default = null;
      example = "/etc/reconciler.yaml";
      description = "A document written by hand instead of settings. One in the Nix store is checked while the system is built. Secrets that it names have to be readable for the user, or loaded with LoadCredential.";
    };
    user = mkOption {
      type = types.str;
      default = "reconciler";
      description = "The user to run as; made if it is the default.";
    };
    group = mkOption {
      type = types.str;
      default = "reconciler";
      description = "The group to run as, made if it is the default. Its members can read the state: `reconciler status` and the like.";
    };
    stateDir = mkOption {
      type = types.addCheck types.str (lib.hasPrefix "/") // {
        description = "absolute path";
      };
      default = "/var/lib/nix-reconciler";
      description = "Where the database, the logs and the GC roots are.";
    };
    trusted = mkOption {
      type = types.bool;
      default = builtins.any (builder: builder.uri != null) (builtins.attrValues cfg.settings.builders);
      defaultText = lib.literalMD "`true` if a builder has a `uri`";
      description = "Whether Nix trusts the user, which is as good as being root. Needed for builders on other machines: what they build has no signature, and Nix imports such paths from trusted users only. All else works as an allowed user.";
    };
    buildMachines = mkOption {
      type = types.enum [
        "separate"
        "import"
        "export"
      ];
      default = "separate";
      description = "import: the machines of {option}`nix.buildMachines` are builders, by their host names. export: the builders with a `uri` are machines of {option}`nix.buildMachines`.";
    };
    preBuildHook = mkOption {
      type = types.bool;
      default = builtins.any (
        jobset: jobset.incremental.enable && jobset.incremental.strategy != "pure"
      ) (builtins.attrValues cfg.settings.jobsets);
      defaultText = lib.literalMD "`true` if a jobset's `incremental.strategy` is not `pure`";
      description = "Whether this machine's Nix runs the hook that shows builds what they start from. To be set beside a {option}`services.reconciler.configFile` with the strategies hidden or compiler-cache.";
    };
    cache = {
      enable = lib.mkEnableOption "serving a declared cache with a `file:` uri through nginx";
      name = mkOption {
        type = types.str;
        default = "main";
        description = "Which of the declared caches is served.";
      };
      hostName = mkOption {
        type = types.str;
        example = "cache.example.org";
        description = "The virtual host of nginx that serves it; add TLS and the like in {option}`services.nginx.virtualHosts`.";
      };
      openFirewall = mkOption {
        type = types.bool;
        default = false;
        description = "Whether to open ports 80 and 443.";
      };
    };
    client = {
      enable = lib.mkEnableOption "that the Nix of this machine, which need not be the farm, takes what is in the declared caches, by their `publicKeys`";
      substituters = mkOption {
        type = types.listOf types.str;
        default = builtins.filter (uri: !lib.hasPrefix "file:" uri) (
          map (cache: cache.uri) (builtins.attrValues cfg.settings.caches)
        );
        defaultText = lib.literalMD "the `uri` of each declared cache that is not `file:`";
        example = [ "https://cache.example.org" ];
        description = "Where clients fetch from, if it is not where the farm pushes to: the web server before a `file:` or an `s3:` cache.";
      };
    };
    # What the other parts of the module read.
    rendered = mkOption {
      internal = true;
      readOnly = true;
      description = "The document and its secrets.";
      default = import ./document.nix { inherit lib schema; } cfg.settings;
    };
  };
}
