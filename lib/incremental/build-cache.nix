# nix-build-cache's interface. Its caches are bases here: no network in the build, no key in the derivation.
let
  wrap = import ./wrap.nix;

  refuse =
    bucket: name:
    if builtins.match "aws-.*" name != null then
      throw "buildCache: ${name} would be readable by everyone in the store, in the derivation; remove it, and name a file with the credentials in the daemon's option artifactStores.${bucket}.credentialsFile"
    else
      throw "buildCache: ${name} is no argument; there are cache-name, master-cache, cache-dirs, s3-bucket and base";
in
{
  cache-name,
  cache-dirs,
  master-cache ? null,
  s3-bucket ? null,
  base ? null,
  # Programs come from what the derivation has itself.
  pkgs ? null,
  ...
}@arguments:
let
  unknown = builtins.attrNames (
    builtins.removeAttrs arguments [
      "cache-name"
      "cache-dirs"
      "master-cache"
      "s3-bucket"
      "base"
      "pkgs"
    ]
  );
in
if unknown != [ ] then
  refuse (if builtins.isString s3-bucket then s3-bucket else "<bucket>") (builtins.head unknown)
else
  wrap {
    slot = cache-name;
    fallback = master-cache;
    bucket = s3-bucket;
    artifacts = cache-dirs;
    inherit base;
  }
