# Packages for evaluating a NixOS system where there is only nixpkgs' lib and nixos: derivations that
# are never built, by the names that NixOS asks for.
{ lib }:
let
  packages = import ./stand_in_packages.nix { inherit lib; };

  made =
    name: environment:
    derivation (
      {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
      }
      // environment
    )
    // {
      override = _: made name environment;
      overrideAttrs = _: made name environment;
      shellPath = "/bin/${name}";
      withPackages = _: made name environment;
    };
  stub =
    pname:
    made "${pname}-2.30" { }
    // {
      inherit pname;
      override = _: stub pname;
      version = "2.30"; # of Nix, too: NixOS compares it
      meta.mainProgram = pname;
    }
    // lib.genAttrs [
      "bin"
      "data"
      "debug"
      "dev"
      "doc"
      "info"
      "lib"
      "man"
      "p11kit"
      "hwdb"
      "mount"
      "su"
      "swap"
      "terminfo"
      "unbundled"
    ] (output: made "${pname}-${output}-2.30" { });
  written = name: text: made name { inherit text; };
  build = arguments: made arguments.name (lib.filterAttrs (_: builtins.isString) arguments);
  ran =
    name: environment: script:
    made name { inherit script; };

  platform = lib.systems.elaborate "x86_64-linux";
  json =
    lib.types.nullOr (
      lib.types.oneOf [
        lib.types.bool
        lib.types.int
        lib.types.float
        lib.types.str
        lib.types.path
        (lib.types.attrsOf json)
        (lib.types.listOf json)
      ]
    )
    // {
      description = "JSON value";
    };
  format = {
    type = json;
    generate = name: value: written name (builtins.toJSON value);
  };
  names = lib.splitString "\n" (lib.removeSuffix "\n" (builtins.readFile ./stand_in_packages.txt));
in
lib.genAttrs names stub
// {
  inherit lib;
  _type = "pkgs";
  system = "x86_64-linux";
  config = { };
  overlays = [ ];
  appendOverlays = _: packages;
  __splicedPackages = packages;
  buildPackages = packages;
  pkgsBuildBuild = packages;
  pkgsStatic = packages;
  pkgsi686Linux = packages;

  stdenvNoCC.mkDerivation = build;
  stdenv = {
    mkDerivation = build;
    hostPlatform = platform;
    buildPlatform = platform;
    targetPlatform = platform;
    cc = stub "cc" // {
      libc = stub "libc";
    };
  }
  // lib.filterAttrs (name: _: lib.hasPrefix "is" name) platform;
  formats = lib.genAttrs [ "ini" "json" "keyValue" "toml" "yaml" ] (_: _: format);

  buildEnv = { name, ... }: stub name;
  callPackage = file: _: stub (baseNameOf file);
  concatText = name: _: stub name;
  makeDBusConf = _: stub "dbus-conf";
  replaceVars = _: _: stub "replaced";
  replaceVarsWith = _: stub "replaced";
  runCommand = ran;
  runCommandCC = ran;
  runCommandLocal = ran;
  substitute = _: stub "substituted";
  substituteAll = _: stub "substituted";
  symlinkJoin = { name, ... }: stub name;
  writeScript = written;
  writeScriptBin = written;
  writeShellScript = written;
  writeShellScriptBin = written;
  writeText = written;
  writeTextDir = path: written (baseNameOf path);
  writeTextFile = { name, text, ... }: written name text;
  writers.writeNginxConfig = written;

  libxcrypt = stub "libxcrypt" // {
    enabledCryptSchemeIds = [ "y" ];
  };
  linuxPackages = lib.makeExtensible (_: {
    kernel = stub "linux";
    inherit (packages) stdenv;
  });
  nginxStable = stub "nginx" // {
    modules = [ ];
    override = _: packages.nginxStable;
  };
  systemd =
    stub "systemd"
    // {
      version = "260.1";
      interfaceVersion = 2;
      kbd = stub "kbd";
      kmod = stub "kmod";
      util-linux = stub "util-linux";
    }
    // lib.genAttrs [
      "withBootloader"
      "withCryptsetup"
      "withEfi"
      "withHostnamed"
      "withImportd"
      "withLocaled"
      "withMachined"
      "withPortabled"
      "withTimedated"
      "withTpm2Tss"
      "withUtmp"
    ] (_: true);
  xorg = lib.genAttrs [ "lndir" "xauth" ] stub;
  nix-reconciler = stub "reconciler";
}
