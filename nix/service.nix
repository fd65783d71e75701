# The unit and its document.
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

  checks = import ./checks.nix {
    inherit lib;
    inherit (cfg) settings;
    inherit (cfg.rendered) secrets;
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
  addresses =
    map (cache: cache.uri) (builtins.attrValues cfg.settings.caches)
    ++ map (store: store.url) (builtins.attrValues cfg.settings.artifactStores);
  folders = map (address: lib.removePrefix "file:" (lib.removePrefix "file://" address)) (
    builtins.filter (lib.hasPrefix "file:") addresses
  );
  written = folders ++ lib.optional (!inStateFolder) cfg.stateDir;
  readsHomes = builtins.any (home: lib.hasInfix home (builtins.toJSON cfg.settings.jobsets)) [
    "/home/"
    "/root/"
    "/run/user/"
  ];

  # Works at all: a document in force, a database that can be read, a daemon that holds it. What
  # failed to build (1) or is not done (3) is no reason to call a switch failed.
  probe = pkgs.writeShellScript "reconciler-probe" ''
    ${lib.escapeShellArgs command} status --oneline && exit
    case $? in 1 | 3) exit 0 ;; *) exit 1 ;; esac
  '';
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
      // builtins.mapAttrs (_: lib.mkDefault) (import ./hardening.nix { inherit readsHomes; });
    };
  };
}
