"""The local launcher: the same commands as on a cluster, as processes of one machine."""
