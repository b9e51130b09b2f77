"""Plug-ins that guide Wan in servers of other projects; nothing of theirs is needed to install this package."""
