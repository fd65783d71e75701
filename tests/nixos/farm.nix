# Three jobsets, two builders, two caches.
{
  services.reconciler = {
    enable = true;
    settings = {
      jobsets = {
        website = {
          source.flake = "git+https://git.example.org/website?ref=main";
          caches = [ "main" ];
        };
        tools = {
          source = {
            path = "/srv/checkouts/tools";
            file = "release.nix";
          };
          caches = [ "local" ];
        };
        docs = {
          source.git.url = "https://git.example.org/docs";
          interval = null;
        };
      };
      builders = {
        local.maxJobs = 2;
        big = {
          uri = "ssh-ng://nix@big.example.org";
          sshKeyFile = "/run/secrets/big";
          publicHostKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJhPb0xqvbcAWJv2MvYwwVBsYNlMCrEyRuTRnNvQ4J8Y";
          maxJobs = 16;
        };
      };
      caches = {
        main = {
          uri = "s3://nix-cache?region=eu-central-1";
          signingKeyFile = "/run/secrets/key";
          credentialsFile = "/run/secrets/s3";
        };
        local = {
          uri = "file:///srv/cache";
          signingKeyFile = "/run/secrets/key";
          upstreams = [
            {
              url = "https://cache.nixos.org";
              publicKey = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
            }
          ];
        };
      };
    };
  };
}
