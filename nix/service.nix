# The unit, its document and its secrets.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  cfg = config.services.reconciler;
  reconciler = lib.getExe' cfg.package "reconciler";
  document = "/etc/nix-reconciler/config.json"; # where the command line looks by itself
  command = [
    reconciler
    "--config"
    document
    "--state-dir"
    cfg.stateDir
  ];

  secrets = lib.optionals (cfg.configFile == null) cfg.rendered.secrets;
  checks = import ./checks.nix {
    inherit lib secrets;
    inherit (cfg) settings;
  };

  # A document that is known now is checked now, unless the program is for another machine.
  checked =
    file:
    if !pkgs.stdenv.buildPlatform.canExecute pkgs.stdenv.hostPlatform then
      file
    else
      pkgs.runCommand "reconciler.json" { } ''
        if ! ${reconciler} check ${file}; then
          echo "These paths are below services.reconciler.settings (or in configFile)." >&2
          exit 1
        fi
        cp ${file} $out
      '';
  source =
    if cfg.configFile == null then
      checked (pkgs.writeText "reconciler-unchecked.json" (builtins.toJSON cfg.rendered.document))
    else if builtins.isPath cfg.configFile || lib.hasPrefix builtins.storeDir cfg.configFile then
      checked "${cfg.configFile}"
    else
      cfg.configFile;

  # systemd replaces %x in every value.
  literal = lib.replaceStrings [ "%" ] [ "%%" ];
  inStateFolder = lib.hasPrefix "/var/lib/" cfg.stateDir;
  fileCaches = map (cache: lib.removePrefix "file:" (lib.removePrefix "file://" cache.uri)) (
    builtins.filter (cache: lib.hasPrefix "file:" cache.uri) (builtins.attrValues cfg.settings.caches)
  );
  written = fileCaches ++ lib.optional (!inStateFolder) cfg.stateDir;
  readsHomes = builtins.any (home: lib.hasInfix home (builtins.toJSON cfg.settings.jobsets)) [
    "/home/"
    "/root/"
    "/run/user/"
  ];

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

  # Works at all: a document in force, a database that can be read, a daemon that holds it. What
  # failed to build (1) or is not done (3) is no reason to call a switch failed.
  probe = pkgs.writeShellScript "reconciler-probe" ''
    ${lib.escapeShellArgs command} status --oneline && exit
    case $? in 1 | 3) exit 0 ;; *) exit 1 ;; esac
  '';

  hardening = {
    AmbientCapabilities = "";
    CapabilityBoundingSet = "";
    DeviceAllow = "";
    DevicePolicy = "closed";
    KeyringMode = "private";
    LockPersonality = true;
    MemoryDenyWriteExecute = true;
    NoNewPrivileges = true;
    PrivateDevices = true;
    PrivateMounts = true;
    PrivateTmp = true;
    PrivateUsers = true;
    ProcSubset = "pid";
    ProtectClock = true;
    ProtectControlGroups = true;
    ProtectHome = if readsHomes then "read-only" else true;
    ProtectHostname = true;
    ProtectKernelLogs = true;
    ProtectKernelModules = true;
    ProtectKernelTunables = true;
    ProtectProc = "invisible";
    ProtectSystem = "strict";
    RemoveIPC = true;
    RestrictAddressFamilies = "AF_UNIX AF_INET AF_INET6";
    RestrictNamespaces = true;
    RestrictRealtime = true;
    RestrictSUIDSGID = true;
    SystemCallArchitectures = "native";
    SystemCallErrorNumber = "EPERM";
    SystemCallFilter = [
      "@system-service"
      "~@privileged @resources"
      # Of util-linux's setpriv, if it is on the path: children are started with it.
      "capset"
    ];
    UMask = "0027";
  };
in
{
  config = lib.mkIf cfg.enable {
    assertions = checks.assertions ++ [
      {
        assertion = cfg.configFile == null || cfg.settings.jobsets == { };
        message = "services.reconciler.configFile: there are services.reconciler.settings as well, which would be ignored; remove one of the two.";
      }
    ];
    warnings = lib.optionals (cfg.configFile == null) checks.warnings;

    environment = {
      systemPackages = [ cfg.package ];
      etc."nix-reconciler/config.json".source = source;
      variables = lib.mkIf (cfg.stateDir != "/var/lib/nix-reconciler") {
        RECONCILER_STATE_DIR = cfg.stateDir;
      };
    };

    users.users = lib.mkIf (cfg.user == "reconciler") {
      reconciler = {
        isSystemUser = true;
        inherit (cfg) group;
        home = cfg.stateDir;
      };
    };
    users.groups = lib.mkIf (cfg.group == "reconciler") { reconciler = { }; };

    # Only what is not there yet is given an owner and a mode.
    systemd.tmpfiles.settings.reconciler = lib.genAttrs written (_: {
      d = {
        user = ":${cfg.user}";
        group = ":${cfg.group}";
        mode = ":0750";
      };
    });

    systemd.services.reconciler = {
      description = "Nix build farm";
      wantedBy = [ "multi-user.target" ];
      wants = [ "network-online.target" ];
      requires = [ "nix-daemon.socket" ];
      after = [
        "network-online.target"
        "nix-daemon.socket"
      ];
      reloadTriggers = [ source ];
      startLimitIntervalSec = 0;
      path = [
        config.nix.package
        pkgs.nix-eval-jobs
        pkgs.git
        pkgs.openssh
      ];
      environment = config.networking.proxy.envVars // {
        HOME = cfg.stateDir;
        NIX_REMOTE = "daemon";
        # Builds that run at a stop may come to their end; those that take longer are interrupted, and
        # built anew. Well below TimeoutStopSec.
        RECONCILER_STOP_AFTER = lib.mkDefault "2m";
        XDG_CACHE_HOME = "/var/cache/nix-reconciler";
      };
      serviceConfig = {
        Type = "notify";
        NotifyAccess = "main";
        ExecStart = utils.escapeSystemdExecArgs (command ++ [ "run" ]);
        ExecStartPost = probe;
        # The daemon keeps its last good document by itself. The check has the reload fail with a bad one,
        # and gives the daemon the time to say that it reloads: systemd then waits until that is done.
        ExecReload = [
          "${lib.getExe' pkgs.coreutils "kill"} -HUP $MAINPID"
          "${reconciler} check ${document}"
        ];
        User = cfg.user;
        Group = cfg.group;
        StateDirectory = lib.mkIf inStateFolder (lib.removePrefix "/var/lib/" cfg.stateDir);
        StateDirectoryMode = "0750";
        RuntimeDirectory = "nix-reconciler";
        RuntimeDirectoryMode = "0750";
        CacheDirectory = "nix-reconciler";
        CacheDirectoryMode = "0700";
        ReadWritePaths = map literal written;
        LoadCredential = map (secret: literal "${secret.id}:${secret.file}") secrets;
        # A secret that is missing is the fault of one object, and keeps nothing else from starting.
        SetCredential = map (secret: literal "${secret.id}:missing") secrets;
        RefreshOnReload = lib.mkIf refreshes "credentials";
        KillMode = "mixed";
        TimeoutStartSec = lib.mkDefault "5min";
        TimeoutStopSec = lib.mkDefault "5min";
        WatchdogSec = lib.mkDefault "1min";
        Restart = lib.mkDefault "on-failure";
        RestartSec = lib.mkDefault "5s";
        RestartSteps = lib.mkDefault 6;
        RestartMaxDelaySec = lib.mkDefault "5min";
        OOMPolicy = lib.mkDefault "continue";
      }
      // builtins.mapAttrs (_: lib.mkDefault) hardening;
    };

    systemd.paths.reconciler-secrets = lib.mkIf (secrets != [ ]) {
      description = "Rotated secrets of the Nix build farm";
      wantedBy = [ "multi-user.target" ];
      pathConfig.PathChanged = lib.unique (map (secret: literal secret.file) secrets);
    };
    systemd.services.reconciler-secrets = lib.mkIf (secrets != [ ]) {
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
