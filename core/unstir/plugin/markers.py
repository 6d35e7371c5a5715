"""The two markers of the plugin API and its version number."""

from __future__ import annotations

import pluggy

PROJECT = "unstir"
API_VERSION = 1
"""The version a plugin module declares as ``UNSTIR_API``; it rises when a hook or a protocol changes."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
