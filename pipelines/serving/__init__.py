"""The dashboard: read-only web pages over the lake (see README.md of this folder)."""
