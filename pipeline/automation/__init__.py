"""Automation: find new photographs on schedule or when a folder changes, then launch only what is stale.

Everything here is level-triggered: it looks at what is, not at what happened. A shard that failed is stale
and is launched again at the next tick; a fresh lake launches nothing.
"""
