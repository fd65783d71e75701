# What the unit may not do: all that a daemon does not need that reaches Nix, git and ssh. To be
# overridden where a source asks for more.
{ readsHomes }:
{
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
  ProtectHome = if readsHomes then "read-only" else true; # sources may be there
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
}
