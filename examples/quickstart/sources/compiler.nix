# What nixpkgs gives a real project, in one page: C libraries and programs, compiled by the host's gcc
# inside Nix's sandbox. (The demo's nix.conf lets /usr, /lib and /lib64 in, and a /bin/sh.)
{ system }:

let
  # A derivation that runs a shell script; what else is given becomes environment variables.
  run =
    { description, ... }@arguments:
    derivation (
      removeAttrs arguments [ "description" "script" ]
      // {
        inherit system;
        builder = "/bin/sh";
        # The shell ends last: it would turn itself into the script's last command, and one that
        # closes its output before it ends (as cat does) may be killed by Nix for having ended.
        args = [ "-euc" (arguments.script + "\n:\n") ];
        PATH = "/usr/bin:/bin";
      }
    )
    // {
      meta = { inherit description; };
    };

  compile = ''
    headers= archives=
    for library in $libraries; do
      headers="$headers -I$library/include"
      archives="$archives $(echo $library/lib/*.a)"
    done
    cp $src/*.[ch] .
    echo "compiling $name"
    gcc -std=c11 -O2 -Wall -Wextra -Werror $headers -c *.c
  '';

  library =
    { name, description, src, libraries ? [ ] }:
    run {
      inherit name description src libraries;
      script = compile + ''
        mkdir -p $out/lib $out/include
        cp *.h $out/include
        ar rcsD $out/lib/lib$name.a *.o
      '';
    };

  # Libraries are linked in the order given: one that uses another stands before it.
  program =
    { name, description, src, libraries ? [ ] }:
    run {
      inherit name description src libraries;
      script = compile + ''
        mkdir -p $out/bin
        gcc -o $out/bin/$name *.o $archives
      '';
    };

  # A job made of other jobs: it succeeds when all of them do, and offers what they offer.
  aggregate =
    { name, description, constituents }:
    run {
      inherit name description constituents;
      _hydraAggregate = true;
      script = ''
        mkdir -p $out/nix-support
        for job in $constituents; do
          products=$job/nix-support/hydra-build-products
          if [ -e $products ]; then cat $products; fi
        done > $out/nix-support/hydra-build-products
      '';
    };
in
{
  inherit run library program aggregate;
}
