"""The commands, a file a group: parse, one call, print."""
