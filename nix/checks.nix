# What is wrong with settings although each value by itself is right, and what to write instead.
# `reconciler check` refuses most of it as well, but only while the system is built; here messages
# name the option.
{
  lib,
  settings,
  secrets,
  storeDir ? builtins.storeDir,
}:
let
  inherit (settings) jobsets builders caches;
  at = path: "services.reconciler.settings.${lib.showOption path}";
  refuse = path: fault: mend: {
    assertion = false;
    message = "${at path}: ${fault}; ${mend}.";
  };
  each = objects: f: builtins.concatLists (lib.mapAttrsToList f objects);
  named = names: lib.concatStringsSep ", " names;

  active = lib.filterAttrs (_: jobset: jobset.enabled) jobsets;
  pushedTo = builtins.concatMap (jobset: jobset.caches) (builtins.attrValues active);
  wanted = builtins.concatMap (jobset: jobset.caches) (builtins.attrValues jobsets);
  remote = lib.filterAttrs (_: builder: builder.uri != null) builders;
  sameMachine =
    name: builder:
    builtins.filter (other: other < name && remote.${other}.uri == builder.uri) (
      builtins.attrNames remote
    );

  dangling = each jobsets (
    name: jobset:
    map (
      cache:
      refuse [ "jobsets" name "caches" ] "there is no cache ${builtins.toJSON cache}" (
        "declare ${at [ "caches" cache ]}"
        + lib.optionalString (caches != { }) " or write one of ${named (builtins.attrNames caches)}"
      )
    ) (builtins.filter (cache: !caches ? ${cache}) jobset.caches)
  );
  stored = map (
    secret:
    refuse [
      secret.kind
      secret.name
      secret.key
    ] "the secret is in the Nix store, where everyone can read it" "name a file outside, as a text such as \"/run/secrets/${secret.name}\""
  ) (builtins.filter (secret: lib.hasPrefix "${storeDir}/" secret.file) secrets);
  # A store reached by ssh-ng signs, or trusts, by itself.
  unsigned = each caches (
    name: cache:
    lib.optional
      (
        builtins.elem name pushedTo
        && cache.signingKeyFile == null
        && cache.signingKeyFiles == [ ]
        && !lib.hasPrefix "ssh-ng://" cache.uri
      )
      (
        refuse [ "caches" name "signingKeyFile" ]
          "jobsets push to this cache, and without a signature nobody takes paths from it"
          "name the file of a key made with `nix key generate-secret --key-name ${name}-1`"
      )
  );
  keyless = each remote (
    name: builder:
    lib.optional (builder.sshKeyFile == null) (
      refuse [ "builders" name "sshKeyFile" ] "${builder.uri} cannot be reached without a key"
        "name the file of a private key that opens it"
    )
  );
  doubled = each remote (
    name: builder:
    map (
      other:
      refuse [ "builders" name "uri" ] "${at [ "builders" other ]} is the same machine"
        "keep one, with the slots of both"
    ) (sameMachine name builder)
  );

  # The daemon may write nowhere but where it is told to by an absolute path.
  relative = each caches (
    name: cache:
    lib.optional (lib.hasPrefix "file:" cache.uri && builtins.match "file:(//)?/.*" cache.uri == null) (
      refuse [ "caches" name "uri" ] "${cache.uri} is relative, and would be below /etc"
        "write file:///PATH"
    )
  );

  idle = lib.filterAttrs (
    _: builder: builder.systems != null && !builtins.any (usable builder) (builtins.attrValues jobsets)
  ) builders;
  usable =
    builder: jobset:
    jobset.systems == null || builtins.any (system: builtins.elem system builder.systems) jobset.systems;
in
{
  assertions = dangling ++ stored ++ unsigned ++ keyless ++ doubled ++ relative;
  warnings =
    lib.mapAttrsToList (
      name: _:
      "${at [ "caches" name ]} is declared, but no jobset pushes to it; name it in a jobset's caches, or remove it."
    ) (lib.filterAttrs (name: _: !builtins.elem name wanted) caches)
    ++ lib.mapAttrsToList (
      name: _:
      "${at [ "builders" name ]} is declared, but no jobset wants any of its systems; add one to a jobset's systems, or remove it."
    ) idle;
}
