# The module's own functions on the recording library.
{
  candidates ? "[]",
  settings ? "[]",
  expression ? "{ }",
  systemd ? "260",
}:
let
  lib = import ./recording_lib.nix { candidates = builtins.fromJSON candidates; };
  schema = lib.importJSON ../../schemas/config.schema.json;
  json.kind = "json";
  document = import ../../nix/document.nix { inherit lib schema; };

  # What the module system makes of a value: defaults are filled in.
  fill =
    type: value:
    {
      nullable = if value == null then null else fill type.inner value;
      submodule =
        value
        // builtins.mapAttrs (name: option: fill option.type (value.${name} or option.default)) (
          lib.filterAttrs (name: option: value ? ${name} || option ? default) type.options
        );
      attributes = builtins.mapAttrs (_: fill type.items) value;
      list = map (fill type.items) value;
      either =
        if builtins.isAttrs value then
          fill (builtins.head (builtins.filter (each: each.kind == "submodule") type.alternatives)) value
        else
          value;
      exclusive = fill (builtins.head (builtins.attrValues (builtins.intersectAttrs value type.alternatives))) value;
    }
    .${type.kind} or value;
in
rec {
  options =
    (import ../../nix/options.nix {
      inherit lib;
      config.services.reconciler.settings = fill options.settings.type { };
      pkgs = {
        formats.json = _: { type = json; };
        nix-reconciler = null;
      };
    }).options.services.reconciler;

  rendered = map (
    given:
    let
      filled = fill options.settings.type given;
      made = document filled;
      checks = import ../../nix/checks.nix {
        inherit lib;
        inherit (made) secrets;
        settings = filled;
        storeDir = "/nix/store";
      };
    in
    made
    // {
      inherit (checks) warnings;
      refusals = map (each: each.message) (builtins.filter (each: !each.assertion) checks.assertions);
    }
  ) (builtins.fromJSON settings);

  # The same settings as a machine would have them: its document, and its units.
  machines = map (
    given:
    let
      filled = fill options.settings.type given;
    in
    import ./units.nix {
      inherit lib options systemd;
      settings = filled;
      rendered = document filled;
    }
  ) (builtins.fromJSON settings);

  # What a page shows as the value of services.reconciler.
  readme =
    let
      file = builtins.toFile "readme.nix" "{ lib, config, ... }: ${expression}";
      shown = import file {
        inherit lib;
        config = { };
      };
    in
    {
      inherit (shown) settings;
      unknown = builtins.attrNames (builtins.removeAttrs shown (builtins.attrNames options));
    };

  flake =
    let
      outputs = (import ../../flake.nix).outputs {
        self = outputs;
        nixpkgs.lib = lib;
      };
    in
    builtins.mapAttrs (
      _: output: if builtins.isAttrs output then builtins.attrNames output else null
    ) outputs;

  # Each dependency has to be known here under the name that nixpkgs has for it.
  package = import ../../nix/package.nix {
    lib = lib // {
      fileset = {
        unions = files: files;
        toSource = source: map toString source.fileset;
      };
      licenses.mit = "MIT";
      platforms.linux = [ ];
      versionAtLeast = version: least: builtins.compareVersions version least >= 0;
    };
    stdenv.buildPlatform.canExecute = _: true;
    stdenv.hostPlatform = null;
    installShellFiles = "installShellFiles";
    fetchPypi = _: null;
    nix = "nix";
    git = "git";
    python3Packages =
      builtins.listToAttrs (
        map
          (name: {
            inherit name;
            value = {
              inherit name;
              version = "4.0";
            };
          })
          [
            "boto3"
            "click"
            "cryptography"
            "hypothesis"
            "jsonschema"
            "msgspec"
            "pytest"
            "pytest-asyncio"
            "pyyaml"
            "rich"
            "setuptools"
            "sqlite-utils"
            "urllib3"
            "watchdog"
            "zstandard"
          ]
      )
      // {
        buildPythonApplication = arguments: arguments;
      };
  };
}
