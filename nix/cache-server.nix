# A cache in a local folder, served by the system's nginx.
{ config, lib, ... }:
let
  cfg = config.services.reconciler;
  served = cfg.settings.caches.${cfg.cache.name} or null;
  isFile = served != null && lib.hasPrefix "file:" served.uri;
in
{
  config = lib.mkIf (cfg.enable && cfg.cache.enable) {
    assertions = [
      {
        assertion = isFile;
        message = "services.reconciler.cache.name: there is no cache ${builtins.toJSON cfg.cache.name} in a local folder; declare services.reconciler.settings.caches.${cfg.cache.name} with a uri such as file:///srv/cache.";
      }
    ];
    services.nginx = {
      enable = true;
      virtualHosts = lib.mkIf isFile {
        ${cfg.cache.hostName}.root = lib.removePrefix "file:" (lib.removePrefix "file://" served.uri);
      };
    };
    systemd.services.nginx.serviceConfig.SupplementaryGroups = [ cfg.group ];
    networking.firewall.allowedTCPPorts = lib.mkIf cfg.cache.openFirewall [
      80
      443
    ];
  };
}
