"""Questions that need both wings, one file each."""
