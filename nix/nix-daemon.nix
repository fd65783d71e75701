# What the farm needs of this machine's Nix, added to what others set; and nix.buildMachines.
{
  config,
  lib,
  pkgs,
  ...
}:
let
  cfg = config.services.reconciler;
  base64 = import ./base64.nix { inherit lib; };
  upstreams = builtins.concatMap (cache: cache.upstreams) (builtins.attrValues cfg.settings.caches);
  remote = lib.filterAttrs (_: builder: builder.uri != null) cfg.settings.builders;

  builderOf = machine: {
    name = machine.hostName;
    value = builtins.mapAttrs (_: lib.mkDefault) {
      uri = "ssh-ng://${
        lib.optionalString (machine.sshUser != null) "${machine.sshUser}@"
      }${machine.hostName}";
      sshKeyFile = machine.sshKey;
      systems = if machine.system != null then [ machine.system ] else machine.systems;
      inherit (machine)
        publicHostKey
        maxJobs
        speedFactor
        supportedFeatures
        mandatoryFeatures
        ;
    };
  };

  machineOf =
    builder:
    let
      parts = builtins.match "ssh-ng://(([^@]*)@)?(.*)" builder.uri;
    in
    {
      hostName = builtins.elemAt parts 2;
      protocol = "ssh-ng";
      sshUser = builtins.elemAt parts 1;
      sshKey = builder.sshKeyFile;
      # There it is in base 64, once more.
      publicHostKey =
        if builder.publicHostKey != null && lib.hasInfix " " builder.publicHostKey then
          base64 builder.publicHostKey
        else
          builder.publicHostKey;
      systems = if builder.systems == null then [ pkgs.stdenv.hostPlatform.system ] else builder.systems;
      # Nix reads a whole number here.
      speedFactor = lib.max 1 (builtins.floor builder.speedFactor);
      inherit (builder) maxJobs supportedFeatures mandatoryFeatures;
    };
in
{
  config = lib.mkIf cfg.enable {
    services.reconciler.settings.builders = lib.mkIf (cfg.buildMachines == "import") (
      builtins.listToAttrs (map builderOf config.nix.buildMachines)
    );
    nix = {
      buildMachines = lib.mkIf (cfg.buildMachines == "export") (
        map machineOf (builtins.attrValues (lib.filterAttrs (_: builder: !builder.drain) remote))
      );
      settings = {
        extra-allowed-users = [ cfg.user ];
        extra-trusted-users = lib.mkIf cfg.trusted [ cfg.user ];
        # Set here, fetching from upstreams needs no trust in the user.
        extra-substituters = lib.mkIf (upstreams != [ ]) (map (upstream: upstream.url) upstreams);
        extra-trusted-public-keys = lib.mkIf (upstreams != [ ]) (
          builtins.filter (key: key != null) (map (upstream: upstream.publicKey) upstreams)
        );
        # Nix starts the hook before each build, 20 ms, only to hear that there are no machines. An
        # untrusted user cannot switch it off.
        build-hook = lib.mkIf (!config.nix.distributedBuilds) (lib.mkDefault "");
      };
    };
  };
}
