# What builds are shown beside their inputs, where a jobset's incremental.strategy asks for it: the hook,
# the store's read-only view, and the folder of what compilers keep.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.reconciler;
  view = "/run/nix-reconciler-store";
  caches = "/var/cache/nix-reconciler-compilers";
  quoted = map lib.escapeShellArg [
    "${cfg.stateDir}/mounts"
    view
    caches
  ];
  hook = pkgs.writeShellScript "reconciler-pre-build-hook" (
    builtins.replaceStrings [ "@answers@" "@store@" "@caches@" ] quoted (
      builtins.readFile ../reconciler/nix-lib/pre-build-hook.sh
    )
  );
in
{
  config = lib.mkIf (cfg.enable && cfg.preBuildHook) {
    nix.settings.pre-build-hook = "${hook}";

    # Nix binds what the hook names writable, unless it lies on what is not; and it makes the store itself
    # writable for its own processes.
    systemd.mounts = [
      {
        description = "The Nix store, read-only, for bases of incremental builds";
        what = builtins.storeDir;
        where = view;
        type = "none";
        options = "bind,ro";
        unitConfig.RequiresMountsFor = builtins.storeDir;
        wantedBy = [ "nix-daemon.service" ];
        before = [ "nix-daemon.service" ];
      }
    ];

    # The hook, which root runs, makes a folder in it for each source; it belongs to the build users.
    systemd.tmpfiles.settings.reconciler.${caches}.d = {
      user = "root";
      group = "nixbld";
      mode = "2755";
    };
  };
}
