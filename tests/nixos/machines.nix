# Two machines: a farm with a git repository, and a builder; a switch adds a jobset, and one prunes it.
{ module }:
let
  keys = "/etc/farm-keys";
  state = "/var/lib/nix-reconciler";
  release = ''
    { system }:
    derivation {
      name = "hello";
      inherit system;
      builder = "/bin/sh";
      args = [ "-c" "echo hello > $out" ];
    }
  '';
  jobset = {
    source.git = {
      url = "/srv/repository";
      ref = "main";
    };
    interval = "5s";
    evaluation.pure = false;
    caches = [ "main" ];
  };
in
{
  name = "reconciler";
  nodes = {
    builder = {
      services.openssh.enable = true;
      users.users.nix = {
        isNormalUser = true;
      };
      nix.settings.trusted-users = [ "nix" ];
    };
    farm =
      { pkgs, ... }:
      {
        imports = [ module ];
        environment.systemPackages = [ pkgs.git ];
        environment.etc."release.nix".text = release;
        services.reconciler = {
          enable = true;
          settings = {
            jobsets.first = jobset;
            builders.big = {
              uri = "ssh-ng://nix@builder";
              sshKeyFile = "${keys}/builder";
            };
            caches.main = {
              uri = "file:///srv/cache";
              signingKeyFile = "${keys}/cache";
            };
          };
        };
        specialisation.more.configuration.services.reconciler.settings.jobsets.second = jobset;
      };
  };
  testScript = ''
    def in_sync(jobset):
        farm.wait_until_succeeds(f"reconciler status {jobset}", timeout=120)

    start_all()
    builder.wait_for_unit("sshd.service")
    farm.succeed(
        "mkdir -p ${keys}",
        "ssh-keygen -q -t ed25519 -N ''' -f ${keys}/builder",
        "nix --extra-experimental-features nix-command key generate-secret --key-name farm-1 > ${keys}/cache",
        "git init -q -b main /srv/repository",
        "cp /etc/release.nix /srv/repository/default.nix",
        "cd /srv/repository && git add . && git -c user.name=x -c user.email=x@example.org commit -qm one",
        "chown -R reconciler /srv/repository",
        "install -d -o reconciler -m 700 ${state}/.ssh",
        "ssh-keyscan -t ed25519 builder > ${state}/.ssh/known_hosts",
    )
    public = farm.succeed("cat ${keys}/builder.pub").strip()
    builder.succeed(
        "mkdir -p ~nix/.ssh",
        f"echo '{public}' > ~nix/.ssh/authorized_keys",
        "chown -R nix ~nix/.ssh",
    )

    farm.succeed("systemctl restart reconciler.service")
    in_sync("first")
    farm.succeed("ls /srv/cache/*.narinfo")
    process = farm.succeed("systemctl show -P MainPID reconciler.service")

    with subtest("a switch that adds a jobset reloads"):
        farm.succeed("/run/current-system/specialisation/more/bin/switch-to-configuration test")
        in_sync("second")

    with subtest("a switch that removes it prunes it"):
        farm.succeed("/run/booted-system/bin/switch-to-configuration test")
        farm.wait_until_fails("reconciler status second", timeout=60)
        in_sync("first")

    assert farm.succeed("systemctl show -P MainPID reconciler.service") == process
    farm.succeed("systemd-analyze security --threshold=20 reconciler.service")
  '';
}
