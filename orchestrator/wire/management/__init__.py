"""The management API: keys, policies, usage, audit, health."""
