# The document that the daemon reads, from settings: a secret's file is replaced by the credential
# into which the service manager copies it, so that the daemon needs no access to the file itself.
{ lib, schema }:
settings:
let
  credentials = "/run/credentials/reconciler.service";

  # A key of a builder or a cache that ends in File names a secret, one in Files a list of them.
  secretKeys = end: kind: builtins.filter (lib.hasSuffix end) (builtins.attrNames schema."$defs".${kind}.properties);
  both = f: {
    builders = f "builder";
    caches = f "cache";
  };
  keys = both (secretKeys "File");
  listKeys = both (secretKeys "Files");

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
      (builtins.filter (key: isSecret (object.${key} or null)) keys.${kind})
    ++ builtins.concatMap (key: builtins.filter (secret: isSecret secret.file) (listed kind name key object)) listKeys.${kind};
  listed =
    kind: name: key: object:
    let
      files = object.${key} or [ ];
    in
    builtins.genList (index: {
      inherit kind name key index;
      id = "${kind}.${name}.${key}.${toString index}";
      file = builtins.elemAt files index;
    }) (builtins.length files);
  secretsIn =
    kind: builtins.concatLists (lib.mapAttrsToList (secretsOf kind) (settings.${kind} or { }));

  hidden =
    kind: name: object:
    object
    // builtins.listToAttrs (
      map (secret: {
        name = secret.key;
        value = "${credentials}/${secret.id}";
      }) (builtins.filter (secret: !secret ? index) (secretsOf kind name object))
    )
    // builtins.listToAttrs (
      map (key: {
        name = key;
        value = map (
          secret: if isSecret secret.file then "${credentials}/${secret.id}" else secret.file
        ) (listed kind name key object);
      }) (builtins.filter (key: object ? ${key}) listKeys.${kind})
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
