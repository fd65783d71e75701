# Bases: the intermediates of an earlier build, and how they reach an expression.
let
  describe = value: if builtins.isString value then "\"${value}\"" else "a ${builtins.typeOf value}";

  isBase =
    value: value == null || builtins.isPath value || builtins.isString value || value ? outPath;

  isDerivation = value: builtins.isAttrs value && value.type or null == "derivation";
in
rec {
  # A derivation that is never built, only had: its output is named by its contents. `builtin` runs on every
  # system, and a curl that is asked for such an address says so and fails at once.
  baseFromHash =
    { name, narHash }:
    if builtins.match "sha256-[A-Za-z0-9+/]{43}=" narHash == null then
      throw "baseFromHash: narHash of ${name} must be an SRI hash such as sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=, as `nix hash path` prints it, not ${narHash}"
    else
      derivation {
        inherit name;
        system = "builtin";
        builder = "builtin:fetchurl";
        url = "file:///base ${name} is not available";
        outputHashMode = "recursive";
        outputHashAlgo = "sha256";
        outputHash = narHash;
      };

  # An empty directory in the store, as garnix gives one where there is no base.
  emptyDirectory = "${builtins.path {
    name = "no-intermediates";
    path = ./.;
    filter = _: _: false;
  }}";

  # The text for incrementalBase: a store path, or nothing.
  toVariable =
    who: base:
    if base == null || base == emptyDirectory then
      ""
    else if builtins.isPath base then
      if !builtins.pathExists base then
        throw "${who}: base ${toString base} does not exist; give null where there is none"
      else if builtins.removeAttrs (builtins.readDir base) [ ".gitignore" ] == { } then
        ""
      else
        "${base}"
    else if isDerivation base then
      "${base.intermediates or base}"
    else if builtins.isString base || base ? outPath then
      "${base}"
    else
      throw "${who}: base must be null, what baseFromHash gives, a path, or the intermediates of a build, not ${describe base}";

  # garnix's two functions: packages, checks and devShells that are functions get their intermediates.
  withCaches = withCachesFor { };

  withCachesFor =
    previous:
    let
      mapSet = function: value: if builtins.isAttrs value then builtins.mapAttrs function value else value;
      taking = [
        "packages"
        "checks"
        "devShells"
      ];
    in
    mapSet (
      type:
      mapSet (
        system:
        mapSet (
          name: value:
          if builtins.elem type taking && builtins.isFunction value then
            value (previous.${type}.${system}.${name}.intermediates or emptyDirectory)
          else
            value
        )
      )
    );

  # The bases by job of a cache.nix; of none where there is no such file.
  fromCacheNix =
    file:
    let
      mend = "write null, or { \"JOB\" = BASE; } with each job's attribute path joined by dots and what baseFromHash gives";
      context = builtins.addErrorContext "while reading ${toString file}: ${mend}";
      bases = context (import file);
    in
    if !(builtins.isPath file || (builtins.isString file && builtins.match "/.*" file != null)) then
      throw "fromCacheNix: the argument must be the path of a file such as ./cache.nix, not ${describe file}"
    else if !builtins.pathExists file then
      _: null
    else if bases == null then
      _: null
    else if !builtins.isAttrs bases || bases ? outPath then
      throw "${toString file} holds ${
        if isDerivation bases then "a derivation" else describe bases
      }: ${mend}"
    else
      job:
      let
        base = bases.${job} or null;
      in
      if isBase base then
        base
      else
        throw "${toString file}: \"${job}\" is ${describe base}: ${mend}";

  # A source without the two files that an overlay commit adds to its root.
  cleanOverlay =
    source:
    let
      root = toString source;
    in
    if !(builtins.isPath source || builtins.isString source || source ? outPath) then
      throw "cleanOverlay: the source must be a path such as ./. or a flake's self, not ${describe source}"
    else
      builtins.path {
        name = "source";
        path = source;
        filter = path: _: path != "${root}/cache.nix" && path != "${root}/commit.txt";
      };
}
