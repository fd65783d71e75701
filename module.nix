# services.reconciler: a build farm as a part of a NixOS configuration.
{
  imports = [
    ./nix/options.nix
    ./nix/service.nix
    ./nix/secrets.nix
    ./nix/nix-daemon.nix
    ./nix/pre-build-hook.nix
    ./nix/cache-server.nix
    ./nix/client.nix
  ];
}
