# The document that the daemon reads, from settings: a secret's file is replaced by the credential
# into which the service manager copies it, so that the daemon needs no access to the file itself.
{ lib, schema }:
settings:
let
  credentials = "/run/credentials/reconciler.service";

  # A key of a builder or a cache that ends in File names a secret.
  secretKeys = kind: builtins.filter (lib.hasSuffix "File") (builtins.attrNames schema."$defs".${kind}.properties);
  keys = {
    builders = secretKeys "builder";
    caches = secretKeys "cache";
  };

  # What is a credential already is left alone: whoever wrote it loads it.
  isSecret = value: builtins.isString value && !lib.hasPrefix "/run/credentials/" value;
  secretsOf =
    kind: name: object:
    map
      (key: {
        inherit kind name key;
        id = "${kind}.${name}.${key}";
        file = object.${key};
      })
      (builtins.filter (key: isSecret (object.${key} or null)) keys.${kind});
  secretsIn =
    kind: builtins.concatLists (lib.mapAttrsToList (secretsOf kind) (settings.${kind} or { }));

  hidden =
    kind: name: object:
    object
    // builtins.listToAttrs (
      map (secret: {
        name = secret.key;
        value = "${credentials}/${secret.id}";
      }) (secretsOf kind name object)
    );
in
{
  secrets = secretsIn "builders" ++ secretsIn "caches";
  document =
    settings
    // builtins.mapAttrs (kind: builtins.mapAttrs (hidden kind)) (
      builtins.intersectAttrs keys settings
    );
}
