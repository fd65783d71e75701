# A cache in a local folder, served by the system's nginx.
{ config, lib, ... }:
let
  cfg = config.services.reconciler;
  inherit (cfg.cache) name;
  uri = cfg.settings.caches.${name}.uri or "";
  isFile = lib.hasPrefix "file:" uri;
in
{
  config = lib.mkIf (cfg.enable && cfg.cache.enable) {
    assertions = [
      {
        assertion = isFile;
        message = "services.reconciler.cache.name: there is no cache ${builtins.toJSON name} in a local folder; declare services.reconciler.settings.caches.${name} with a uri such as file:///srv/cache.";
      }
    ];
    services.nginx.enable = true;
    services.nginx.virtualHosts.${cfg.cache.hostName}.root = lib.mkIf isFile (
      lib.removePrefix "file:" (lib.removePrefix "file://" uri)
    );
    systemd.services.nginx.serviceConfig.SupplementaryGroups = [ cfg.group ];
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.cache.openFirewall [
      80
      443
    ];
  };
}
