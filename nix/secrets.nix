# How secrets get to the daemon: as credentials, and again when they were rotated.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.reconciler;
  inherit (cfg.rendered) secrets;
  literal = lib.replaceStrings [ "%" ] [ "%%" ]; # systemd replaces %x in every value
  # From systemd 260 on a reload brings fresh credentials; before that only a restart does.
  refreshes = lib.versionAtLeast (lib.getVersion config.systemd.package) "260";
  # Whatever had it look, what counts is whether a file is another one than the daemon was given: a path
  # unit sees no link changed on the way to a file, and nothing at all while this runs.
  bringRotated = pkgs.writeShellScript "reconciler-rotated-secrets" ''
    for look in 1 2 3; do
      rotated=
      while read -r id file; do
        ${lib.getExe' pkgs.diffutils "cmp"} -s "$file" /run/credentials/reconciler.service/"$id"
        [ $? != 1 ] || rotated="$rotated $id"
      done <<'END'
    ${lib.concatMapStringsSep "\n" (secret: "${secret.id} ${secret.file}") secrets}
    END
      [ "$rotated" ] || exit 0
      echo "rotated:$rotated"
      ${lib.getExe' config.systemd.package "systemctl"} ${
        if refreshes then "try-reload-or-restart" else "try-restart"
      } reconciler.service || exit
    done
  '';
in
{
  config = lib.mkIf (cfg.enable && cfg.configFile == null && secrets != [ ]) {
    systemd.services.reconciler.serviceConfig = {
      LoadCredential = map (secret: literal "${secret.id}:${secret.file}") secrets;
      # A secret that is missing is the fault of one object, and keeps nothing else from starting.
      SetCredential = map (secret: literal "${secret.id}:missing") secrets;
      RefreshOnReload = lib.mkIf refreshes "credentials";
    };
    systemd.paths.reconciler-secrets = {
      description = "Rotated secrets of the Nix build farm";
      wantedBy = [ "multi-user.target" ];
      pathConfig.PathChanged = lib.unique (map (secret: literal secret.file) secrets);
    };
    systemd.services.reconciler-secrets = {
      description = "Bring rotated secrets to the Nix build farm";
      # With each switch, too: that is when tools for secrets write them.
      wantedBy = [ "multi-user.target" ];
      after = [ "reconciler.service" ];
      startAt = "*:0/5";
      startLimitIntervalSec = 0;
      serviceConfig = {
        Type = "oneshot";
        ExecStart = bringRotated;
      };
    };
  };
}
