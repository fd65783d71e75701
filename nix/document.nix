# The document that the daemon reads, from settings: a secret's file is replaced by the credential
# into which the service manager copies it, so that the daemon needs no access to the file itself.
{ lib, schema }:
settings:
let
  inherit (import ./schema.nix { inherit lib schema; }) resolve within;

  # What is a credential already is left alone: whoever wrote it loads it.
  isSecret =
    part: value:
    part.secret or false && builtins.isString value && !lib.hasPrefix "/run/credentials/" value;

  # The settings with something else for each secret.
  replaced =
    secret: path: reference: value:
    let
      part = resolve reference;
      below = name: replaced secret (path ++ [ (toString name) ]) (within part name);
    in
    if builtins.isList value then
      lib.imap0 below value
    else if builtins.isAttrs value then
      builtins.mapAttrs below value
    else if isSecret part value then
      secret {
        inherit path;
        id = builtins.concatStringsSep "." path;
        file = value;
      }
    else
      value;
  everySecret =
    value:
    if value._secret or false then
      [ value.held ]
    else if builtins.isAttrs value then
      builtins.concatMap everySecret (builtins.attrValues value)
    else
      lib.optionals (builtins.isList value) (builtins.concatMap everySecret value);
in
{
  document = replaced (
    secret: "/run/credentials/reconciler.service/${secret.id}"
  ) [ ] schema settings;
  secrets = everySecret (
    replaced (held: {
      _secret = true;
      inherit held;
    }) [ ] schema settings
  );
}
