# A machine whose Nix takes what the declared caches have. It need not be the farm.
{ config, lib, ... }:
let
  cfg = config.services.reconciler;
  inherit (cfg.settings) caches;
in
{
  config = lib.mkIf cfg.client.enable {
    assertions = lib.mapAttrsToList (name: cache: {
      assertion = cache.publicKeys != [ ];
      message = "services.reconciler.settings.caches.${name}.publicKeys: without a key that it trusts, no client takes anything from this cache; write what `nix key convert-secret-to-public` makes of its signing key.";
    }) caches;
    nix.settings = {
      extra-substituters = cfg.client.substituters;
      extra-trusted-public-keys = builtins.concatMap (cache: cache.publicKeys) (
        builtins.attrValues caches
      );
    };
  };
}
