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
  inherit (builtins)
    any
    attrNames
    attrValues
    concatMap
    elem
    filter
    ;
  inherit (lib) hasPrefix mapAttrsToList;
  inherit (settings)
    jobsets
    builders
    caches
    artifactStores
    ;
  place = path: "services.reconciler.settings.${lib.showOption path}";
  at =
    kind: name:
    place [
      kind
      name
    ];
  claim = where: assertion: message: {
    inherit assertion;
    message = "${where}: ${message}.";
  };
  each = objects: claims: builtins.concatLists (mapAttrsToList claims objects);

  remote = lib.filterAttrs (_: builder: builder.uri != null) builders;
  firstWith = uri: builtins.head (filter (name: remote.${name}.uri == uri) (attrNames remote));
  # A jobset has the name of a cache, or that and what of the jobset goes there.
  cachesOf = jobset: map (cache: cache.name or cache) jobset.caches;
  pushedTo = concatMap cachesOf (filter (jobset: jobset.enabled) (attrValues jobsets));
  declared = lib.optionalString (
    caches != { }
  ) " or write one of ${builtins.concatStringsSep ", " (attrNames caches)}";
  bySsh = cache: hasPrefix "ssh-ng://" cache.uri;
  # A store reached by ssh-ng signs, or trusts, by itself.
  signed = cache: cache.signingKeyFile != null || cache.signingKeyFiles != [ ] || bySsh cache;
  reached =
    kind: name: object:
    claim "${at kind name}.sshKeyFile" (
      object.sshKeyFile != null
    ) "${object.uri} cannot be reached without a key; name the file of a private key that opens it";

  # The daemon may write nowhere but where it is told to by an absolute path.
  located =
    where: address:
    claim where (
      !hasPrefix "file:" address || builtins.match "file:(//)?/.*" address != null
    ) "${address} is relative, and would be below /etc; write file:///PATH";

  # As `reconciler check` compares them, of which this sees the plain cases.
  addresses =
    mapAttrsToList (name: cache: {
      object = at "caches" name;
      key = "uri";
      address = trimmed cache.uri;
    }) caches
    ++ mapAttrsToList (name: store: {
      object = at "artifactStores" name;
      key = "url";
      address = trimmed store.url;
    }) artifactStores;
  trimmed = address: builtins.head (builtins.match "(.*[^/])/*" address);
  firstAt = address: (builtins.head (filter (other: other.address == address) addresses)).object;
  inStore =
    address: any (prefix: hasPrefix "${prefix}${storeDir}/" "${address}/") [ "file:" "file://" ];

  assertions =
    each jobsets (
      name: jobset:
      map (
        cache:
        claim "${at "jobsets" name}.caches" (
          caches ? ${cache}
        ) "there is no cache ${builtins.toJSON cache}; declare ${at "caches" cache}${declared}"
      ) (cachesOf jobset)
    )
    ++ map (
      secret:
      claim (place secret.path) (!hasPrefix "${storeDir}/" secret.file)
        "the secret is in the Nix store, where everyone can read it; name a file outside, as a text such as \"/run/secrets/${builtins.elemAt secret.path 1}\""
    ) secrets
    ++ each caches (
      name: cache: [
        (claim "${at "caches" name}.signingKeyFile" (!elem name pushedTo || signed cache)
          "jobsets push to this cache, and without a signature nobody takes paths from it; name the file of a key made with `nix key generate-secret --key-name ${name}-1`"
        )
        (located "${at "caches" name}.uri" cache.uri)
      ]
    )
    ++ mapAttrsToList (name: store: located "${at "artifactStores" name}.url" store.url) artifactStores
    ++ concatMap (
      {
        object,
        key,
        address,
      }:
      [
        (claim "${object}.${key}" (
          firstAt address == object
        ) "${firstAt address} is at the same place; give each a place of its own, or keep one of them")
        (claim "${object}.${key}" (!inStore address)
          "it is in the Nix store, where only Nix may write; name a folder outside, such as file:///srv/nix-cache"
        )
      ]
    ) addresses
    ++ mapAttrsToList (reached "caches") (lib.filterAttrs (_: bySsh) caches)
    ++ mapAttrsToList (reached "builders") remote
    ++ mapAttrsToList (
      name: builder:
      claim "${at "builders" name}.uri" (
        firstWith builder.uri == name
      ) "${at "builders" (firstWith builder.uri)} is the same machine; keep one, with the slots of both"
    ) remote;

  unused =
    kind: used: why:
    mapAttrsToList (name: _: "${at kind name} is declared, but ${why}, or remove it.") (
      lib.filterAttrs (name: object: !any (used name object) (attrValues jobsets)) settings.${kind}
    );

  notEnabled = lib.filterAttrs (
    _: jobset: !jobset.incremental.enable && jobset.incremental.strategy != "pure"
  ) jobsets;
in
{
  inherit assertions;
  warnings =
    unused "caches" (
      name: _: jobset:
      elem name (cachesOf jobset)
    ) "no jobset pushes to it; name it in a jobset's caches"
    ++ unused "artifactStores" (
      _: _: jobset:
      jobset.incremental.enable
    ) "no jobset builds incrementally; set incremental.enable of one"
    ++ unused "builders" (
      _: builder: jobset:
      builder.systems == null
      || jobset.systems == null
      || lib.intersectLists builder.systems jobset.systems != [ ]
    ) "no jobset wants any of its systems; add one to a jobset's systems"
    ++ mapAttrsToList (
      name: _:
      "${at "jobsets" name}.incremental.strategy has no effect without incremental.enable; set that, or remove it."
    ) notEnabled;
}
